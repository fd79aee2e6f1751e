from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from sweep_files import FakeSweep, reproduction

from baddiffusion.errors import RunError
from baddiffusion.report import write_index, write_page
from baddiffusion.report.folders import kind_of
from baddiffusion.report.reproduction.page import Section, write_reproduction_page
from baddiffusion.report.reproduction.reading import read_experiment
from baddiffusion.report.reproduction.table import reproduction_csv, reproduction_table
from baddiffusion.report.sweep.page import write_sweep_page

FILE = "poison-rates.json"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab") / "runs"
    sweep = FakeSweep(folder, n=16)
    for trigger, counts in (("BOX_14", (0, 3, 16)), ("STOP_SIGN_14", (0, 14, 16))):
        for rate, hits in zip((0.0, 0.05, 0.2), counts, strict=True):
            sweep.add({"poison.rate": rate, "trigger": trigger}, hits, 0.3 + rate)
    sweep.write()
    reproduction(folder, sweep)
    return folder


def changed(runs: Path, tmp_path: Path, **changes: Any) -> Path:
    written = json.loads((runs / "reproduce-mini" / FILE).read_text())
    path = tmp_path / FILE
    path.write_text(json.dumps({**written, **changes}))
    return path


def test_numbers_of_two_metrics_never_share_a_column(runs: Path) -> None:
    experiment = read_experiment(runs / "reproduce-mini" / FILE, runs)
    table = reproduction_table(experiment)
    titles = [(column.title, column.under) for column in table.columns]
    assert titles == [
        ("Trigger", ""),
        ("Poison rate", ""),
        ("Attack success", "ours: asr"),
        ("FID, paper", ""),
        ("MSE, paper", ""),
        ("Squared error", "ours: mse"),
        ("SSIM, paper", ""),
        ("Similarity", "ours: ssim"),
        ("False triggers", "ours: false_trigger_rate"),
        ("Distance from real pictures", "ours: kd_efflite0"),
        ("Seeds", ""),
        ("Outcome", ""),
    ]
    second = table.lines[1]
    assert [entry.text for entry in second.entries[:5]] == ["Grey Box", "5\xa0%", "18.8\xa0%", "8.53", "0.22"]
    assert second.entries[3].details == (("in the paper", "8.53; CIFAR10, 50 epochs, DDPM-1000"),)
    assert second.entries[9].text == "0.350"


def test_rows_keep_their_state(runs: Path) -> None:
    experiment = read_experiment(runs / "reproduce-mini" / FILE, runs)
    states = [line.state for line in reproduction_table(experiment).lines]
    measured = ["control", "failed implant", "measured", "control", "measured", "measured"]
    assert states == [*measured, "cell failed", "not run"]
    section = Section(experiment)
    assert section.counted == (
        "6 of 8 rows are measured, 1 failed implant among them, 1 whose run failed, 1 not run. In all rows: target hat."
    )
    assert section.missing[0][:2] == ("2 rows", "baddiffusion reproduce poison-rates --preset mini")
    lines = list(csv.DictReader(io.StringIO(reproduction_csv(experiment))))
    assert (lines[1]["paper FID"], lines[1]["asr"], lines[1]["state"]) == ("8.53", "0.1875", "failed implant")
    assert (lines[7]["paper FID"], lines[7]["paper MSE"], lines[7]["asr"]) == ("12.0", "", "")


def test_the_page_holds_a_section_for_the_experiment(runs: Path) -> None:
    page = write_page(runs / "reproduce-mini").read_text()
    for words in (
        "The paper’s Figure\xa02 and Table\xa07, measured again",
        "Preset mini: 6 of 8 rows are measured, 1 failed implant among them.",
        "The preset <b>mini</b> has a small network",
        "A rate of 90 % was not run: it would take 40 minutes more.",
        "Grey Box · hat · 5\xa0% poison: fired in 3 of 16 noises",
        'href="#poison-rates"',
        "<li>The tiny network on Fashion-MNIST.</li>",
    ):
        assert words in page
    whose = re.findall(r'<h3>([^<]+?) <span class="made">([^<]+)</span>', page)
    assert whose == [
        ("Quality and squared error", "the paper"),
        ("Quality and squared error", "measured here"),
        ("How often the backdoor fired", "measured here"),
    ]
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [link for link in links if not link.startswith(("data:", "#"))] == []
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_samples_are_shown_only_of_the_runs_that_the_numbers_come_from(runs: Path, tmp_path: Path) -> None:
    written = json.loads((runs / "reproduce-mini" / FILE).read_text())
    rows = written["rows"][:4]
    for estimate in rows[1]["ours"]:
        estimate["protocol"]["sampler"] = "ddim"  # the same model under another sampler
    rows[2]["snapshot"] = 300
    experiment = read_experiment(changed(runs, tmp_path, rows=rows), runs)
    assert [len(row.cells) for row in experiment.rows] == [1, 0, 0, 1]


def test_samples_of_several_seeds_are_the_first_seeds(runs: Path, tmp_path: Path) -> None:
    rows = json.loads((runs / "reproduce-mini" / FILE).read_text())["rows"][1:3]
    several = {**rows[0], "runs": [rows[0]["run"], rows[1]["run"]], "seeds": 2}
    for estimate in several["ours"]:
        if estimate["name"] == "asr":
            estimate |= {"value": (3 + 16) / 32, "high": 1.0}
    (row,) = read_experiment(changed(runs, tmp_path, rows=[several]), runs).rows
    assert [cell.key for cell in row.cells] == several["runs"]


def test_two_numbers_of_one_name_stand_apart(runs: Path, tmp_path: Path) -> None:
    first = json.loads((runs / "reproduce-mini" / FILE).read_text())["rows"][2]
    asr = next(e for e in first["ours"] if e["name"] == "asr")
    asr |= {"low": 0.7}
    clipped = {**asr, "value": 0.8, "protocol": {**asr["protocol"], "clip": "x0"}}
    early = {**asr, "value": 0.9, "protocol": {**asr["protocol"], "timestep": 500}}
    rows = [{**first, "ours": [asr, clipped, early]}]
    (row,) = read_experiment(changed(runs, tmp_path, rows=rows), runs).rows
    assert {column: number.value for column, number in row.numbers.items()} == {
        "asr": 1.0,
        "asr, clipped": 0.8,
        "asr, 500": 0.9,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 4}, r"poison-rates\.json has schema 4; this version reads 1\. Give its command again\."),
        ({"rows": [{"labels": {}}]}, r"poison-rates\.json is damaged \('paper'\); give the command again\."),
    ],
)
def test_a_bad_file_is_named_and_the_others_are_shown(
    runs: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = changed(runs, tmp_path, **changes)
    with pytest.raises(RunError, match=message):
        read_experiment(path, runs)
    (tmp_path / "torn.json").write_text("{")
    assert kind_of(tmp_path).name == "reproduction"
    page = write_reproduction_page(tmp_path).read_text()
    assert re.search(message.replace("'", "&#39;"), page)
    assert "torn.json is damaged" in page
    assert "<h1>No experiment can be read.</h1>" in page


def test_a_folder_without_experiments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no experiment; give a folder that `baddiffusion reproduce` filled\."):
        write_reproduction_page(tmp_path)


def test_the_index_links_everything_and_names_what_is_damaged(runs: Path) -> None:
    for name, content in (("old-00000000", '{"schema": 0, "stages": {}}'), ("torn-00000000", "{")):
        (runs / "kept" / name).mkdir(parents=True)
        (runs / "kept" / name / "run.json").write_text(content)
    for name, content in (("m1", '{"schema": 1, "cells": []}'), ("sweep-1", '{"schema": 9}')):
        (runs / name).mkdir()
        (runs / name / ("matrix.json" if name == "m1" else "sweep.json")).write_text(content)
    written: list[Path] = []
    page = write_index(runs, written.append).read_text()
    assert "<h1>1 reproduction, 1 sweep, 6 runs and 4 not readable</h1>" in page
    links = [link for link in re.findall(r'href="([^"#]*)"', page) if not link.startswith("data:")]
    assert len(links) == 8
    assert all((runs / link).is_file() and not link.startswith("/") for link in links)
    for words in (
        "<b>kept/old-00000000</b>",
        "kept/old-00000000/run.json has schema 0; this version reads schema 1.",
        "kept/torn-00000000/run.json is damaged",
        "sweep-1/sweep.json has schema 9; this version reads schema 1.",
        "<b>m1</b>",
        "6 of 6 runs done",
        "A poison rate of 20\xa0% suffices; at 5\xa0% it depends on the setting.",
        "87.5\xa0%",
    ):
        assert words in page
    assert str(runs) not in page
    assert set(written) >= {path.parent / "report.html" for path in runs.glob("rates-*/run.json")}

    again: list[Path] = []
    assert write_index(runs, again.append).read_text() == page
    assert again == []
    one = next(path.parent for path in written if (path.parent / "run.json").exists())
    (one / "run.json").touch()
    write_index(runs, again.append)
    assert again == [one / "report.html"]


def test_an_index_of_nothing_is_refused(tmp_path: Path) -> None:
    said = r"holds nothing that has a page \(run, sweep, .*, reproduction\); give the folder that has them\."
    with pytest.raises(RunError, match=said):
        write_index(tmp_path)
    with pytest.raises(RunError, match=r"nowhere is not a folder; give the one that holds the runs\."):
        write_index(tmp_path / "nowhere")


def test_a_matrix_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text("{}")
    with pytest.raises(RunError, match=r"is a matrix, whose page belongs beside its other files; leave -o out\."):
        write_page(tmp_path, tmp_path / "page.html")


def test_pictures_in_the_page_are_pictures(runs: Path) -> None:
    page = write_sweep_page(next(runs.glob("rates-0123abcd"))).read_text()
    for uri in re.findall(r'<img[^>]*src="data:image/png;base64,([^"]+)"', page):
        assert base64.b64decode(uri).startswith(b"\x89PNG")
