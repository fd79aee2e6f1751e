from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sweep_files import FakeSweep, fourteen

from baddiffusion.errors import RunError
from baddiffusion.metrics import Estimate
from baddiffusion.report import write_comparison_page, write_page
from baddiffusion.report.kit.settings_words import settings_words, value_words
from baddiffusion.report.sweep.cells import CellRun
from baddiffusion.report.sweep.comparison import Row, compare_runs, read_sweep
from baddiffusion.report.sweep.drawings import drawings
from baddiffusion.report.sweep.findings import Findings, fired_in
from baddiffusion.report.sweep.page import write_sweep_page
from baddiffusion.report.sweep.panels import panels
from baddiffusion.report.sweep.sortable import csv_text, results_table
from baddiffusion.report.sweep.strips import strips
from baddiffusion.rng import generator

NBSP = "\N{NO-BREAK SPACE}"
T_975_2 = 4.302652729911275
"""Student's t at 97.5 % with two degrees of freedom, from a table."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> FakeSweep:
    return fourteen(tmp_path_factory.mktemp("lab") / "runs")


@pytest.fixture(scope="module")
def page(sweep: FakeSweep) -> str:
    return write_sweep_page(sweep.folder).read_text()


def plain(text: str) -> str:
    """What a reader sees, in one line."""
    text = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).replace(NBSP, " ").split())


def success(hits: int, low: float, high: float, n: int = 64) -> Estimate:
    return Estimate(name="asr", value=hits / n, low=low, high=high, n=n, better="higher", unit="share of images")


def row(rate: float, estimate: Estimate, state: str = "", **settings: Any) -> Row:
    state = state or ("implanted" if estimate.value >= 0.5 else "failed implant")
    return Row({"poison.rate": rate, **settings}, {"asr": estimate}, state, (0,))


WEAK, STRONG = row(0.05, success(12, 0.1, 0.3)), row(0.1, success(60, 0.8, 1.0))


def test_the_head_answers_whether_a_rate_suffices(page: str) -> None:
    assert "<h1>A poison rate of 20\xa0% or 50\xa0% suffices; at 5\xa0% it depends on the setting.</h1>" in page
    said = plain(page)
    assert (
        "What changes with the poison rate and trigger? 10 of 14 runs are measured, some settings with 3 seeds." in said
    )
    assert (
        "At 5 % the backdoor fired in 12 of 64 noises (11 to 30 %) with grey box, 14 px, and in 40 of 64 noises "
        "(50 to 73 %) with stop sign, 14 px." in said
    )
    assert (
        "the target came out in none of 64 noises (0 to 6 %) with grey box, 14 px and stop sign, 14 px alike." in said
    )


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([WEAK, STRONG], "A poison rate of 10 % suffices; 5 % does not."),
        ([row(0.05, success(36, 0.44, 0.68)), STRONG], "A poison rate of 10 % suffices; 5 % is undecided."),
        ([row(0.05, success(60, 0.8, 1.0)), STRONG], "Every poison rate that was tried suffices, even 5 %."),
        ([WEAK, row(0.1, success(2, 0.0, 0.1))], "No poison rate that was tried suffices, not even 10 %."),
        ([STRONG], "The backdoor fires in the one setting that was measured."),
        ([row(0.0, success(0, 0.0, 0.1), "control")], "No backdoor has been measured yet."),
    ],
)
def test_a_title_says_what_the_intervals_allow(rows: list[Row], title: str) -> None:
    assert Findings(rows, ["poison.rate"]).title.replace(NBSP, " ") == title


def test_settings_without_rates_are_counted() -> None:
    rows = [row(0.1, success(hits, 0.0, 1.0), trigger=name) for name, hits in (("BOX_8", 60), ("BOX_14", 3))]
    found = Findings([Row({"trigger": r.settings["trigger"]}, r.numbers, r.state, r.seeds) for r in rows], ["trigger"])
    assert found.title == "The backdoor fires in 1 of 2 settings."
    assert found.lines[1].replace(NBSP, " ") == "With trigger grey box, 14 px it fired in 3 of 64 noises (0 to 100 %)."
    assert found.failures == [f"grey box, 14 px: fired in 3 of 64 noises (0 to 100{NBSP}%)."]


def test_many_settings_of_a_rate_are_told_by_their_extremes() -> None:
    rows = [row(rate, success(hits, 0.0, 1.0), target=str(hits)) for rate in (0.1, 0.2) for hits in (3, 40, 60)]
    (line, _) = Findings(rows, ["poison.rate", "target"]).lines
    assert line.replace(NBSP, " ") == (
        "At 10 % the backdoor fired in most noises in 2 of 3 settings: from 3 of 64 noises (0 to 100 %) with 3 to 60 "
        "of 64 noises (0 to 100 %) with 60."
    )


def test_seeds_are_taken_together(sweep: FakeSweep) -> None:
    (several,) = [row for row in read_sweep(sweep.folder).rows if len(row.cells) > 1]
    values = [52 / 64, 58 / 64, 47 / 64]
    mean, sd = statistics.mean(values), statistics.stdev(values)
    found = several.numbers["asr"]
    assert several.seeds == (0, 1, 2)
    assert (found.value, found.protocol["sd"]) == pytest.approx((mean, sd))
    assert found.low == pytest.approx(mean - T_975_2 * sd / 3**0.5)
    assert found.high == 1.0  # a share is cut off there
    (line,) = results_table([several], ["poison.rate"]).lines
    shown = [(entry.text, entry.interval, entry.spread) for entry in line.entries]
    assert ("3", "seeds 0, 1, 2", "") in shown
    assert ("81.8\xa0%", "60.4 to 100\xa0%", "sd 8.6\xa0%") in shown
    assert ("0\xa0%", "", "sd 0\xa0%") in shown  # an empty interval is none
    assert fired_in(found) == "81.8\xa0% of the noises, the mean of 3 seeds (60 to 100\xa0%)"


def test_a_failed_seed_is_named_even_where_the_mean_hides_it(tmp_path: Path) -> None:
    made = FakeSweep(tmp_path / "runs", n=32)
    for seed, hits in ((0, 32), (1, 5)):
        made.add({"seed": seed}, hits)
    found = read_sweep(made.write())
    assert Findings(found.rows, found.varied).failures == [
        f"This setting · seed 1 alone: fired in 5 of 32 noises (7 to 32{NBSP}%)."
    ]
    assert "How much do the seeds differ?" in write_sweep_page(made.folder).read_text()


def test_seeds_that_were_measured_in_two_ways_are_not_averaged(tmp_path: Path) -> None:
    made = FakeSweep(tmp_path / "runs", n=16)
    first = made.add({"seed": 0}, 16)
    made.n = 32
    made.add({"seed": 1}, 5)
    (found,) = read_sweep(made.write()).rows
    assert (found.numbers["asr"].value, found.numbers["asr"].n) == (1.0, 16)
    assert found.numbers["asr"].caveats[0].startswith("Of seed 0 alone: numbers called asr cannot stand in one table")
    assert first.exists()


def test_failures_and_missing_cells_are_told_with_their_command(sweep: FakeSweep, page: str) -> None:
    said = plain(page)
    assert "5 % poison · grey box, 14 px: fired in 12 of 64 noises (11 to 30 %)." in said
    folder = f"runs/{sweep.folder.name}"
    assert (
        "90 % poison · grey box, 14 px · seed 0 failed RunError: training diverged at step &lt;12&gt;: loss is nan. "
        f"Its traceback: {folder}/failures/a.txt . baddiffusion sweep {folder}/sweep.toml" in said
    )
    assert "stop sign, 14 px · seed 0 lost Its process ended in the middle, more than once." in said
    assert "30 % poison · stop sign, 14 px · seed 0 waiting It has not been started." in said
    (started,) = [cell["key"] for cell in sweep.cells if cell["status"] == "running"]
    assert f"running It is not finished. baddiffusion run runs/{started}/recipe.toml" in said
    assert str(sweep.runs) not in page


def test_a_cell_is_done_when_its_own_record_says_so(tmp_path: Path) -> None:
    made = FakeSweep(tmp_path / "lab", n=8)
    made.add({"poison.rate": 0.1}, 8, status="waiting")
    made.add({"poison.rate": 0.2}, status="done")
    torn = made.add({"poison.rate": 0.3}, 8, status="done")
    (torn / "metrics.json").write_text("{}")
    old = made.add({"poison.rate": 0.4}, 8, status="done")
    (old / "run.json").write_text(json.dumps({"schema": 0, "stages": {}}))
    trained = made.add({"poison.rate": 0.5}, 8, status="done")
    record = json.loads((trained / "run.json").read_text())
    measured = record["stages"].pop("evaluate")
    (trained / "run.json").write_text(json.dumps(record))
    gone = made.add({"poison.rate": 0.6}, 8, status="done")
    (gone / "metrics.json").unlink()
    found = read_sweep(made.write())
    assert measured["outputs"]
    states = ["done", "waiting", "unreadable", "unreadable", "trained", "unreadable"]
    assert [cell.status for cell in found.cells] == states
    told = {"done": "implanted", "unreadable": "cell failed"}
    assert [row.state for row in found.rows] == [told.get(state, "not finished") for state in states]
    assert found.cells[4].reason == "It is trained, but not measured."
    assert "was measured, but its metrics.json is gone; start it again." in found.cells[5].reason
    assert "metrics.json was changed or removed after the run wrote it" in found.cells[2].reason
    assert "run.json has schema 0; this version reads schema 1" in found.cells[3].reason
    assert found.command(found.cells[1]) == f"baddiffusion sweep lab/{made.folder.name}/sweep.toml --runs lab"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"schema": 7},
            r"sweep\.json has schema 7; this version reads schema 1\. Remove it and start the sweep again\.",
        ),
        (
            {"cells": [{"key": "x"}]},
            r"sweep\.json is damaged \('status'\); remove it, and start the sweep again: no cell is lost\.",
        ),
    ],
)
def test_a_bad_sweep_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    folder = FakeSweep(tmp_path / "runs").write(**changed)
    with pytest.raises(RunError, match=message):
        write_page(folder)
    with pytest.raises(RunError, match=r"is not the folder of a sweep \(no sweep\.json\); give one that"):
        read_sweep(tmp_path)


def test_the_page_asks_for_nothing_and_runs_its_own_script_alone(page: str) -> None:
    links = re.findall(r'(?:src|href|action|srcset)="([^"]*)"', page)
    assert links
    assert [link for link in links if not link.startswith(("data:", "#"))] == []
    assert not re.search(r"@import|https?://(?!www\.w3\.org)", page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert (
        policy.group(1) == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    assert not re.search(r"\son\w+=", page)


def test_the_page_can_be_read_aloud(page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'aria-(?:describedby|labelledby)="([^"]+)"', page)) <= set(ids)
    assert page.count("<h1>") == 1
    assert not re.search(r"<img(?![^>]*alt=\"[^\"]+\")", page)


def test_every_number_opens_to_its_protocol(sweep: FakeSweep, page: str) -> None:
    counted = sum(len(row.numbers) for row in read_sweep(sweep.folder).rows)
    assert page.count('class="value"') == counted
    assert page.count('role="tooltip"') == counted
    tip = re.search(r'role="tooltip"[^>]*>(.*?)</span>\s*</span>', page, flags=re.DOTALL)
    assert tip is not None
    for words in ("Attack success: 0\xa0%", "<i>n</i><em>64</em>", "<i>steps</i><em>50</em>", "<i>seeds</i>"):
        assert words in tip.group(1)


def test_the_downloads_are_the_table_and_the_figures(sweep: FakeSweep, page: str) -> None:
    found = dict(re.findall(r'<li><a download="([^"]+)" href="data:[^"]*?base64,([^"]+)"', page))
    assert sorted(found) == ["rates-1.png", "rates-2.png", "rates.csv"]
    lines = list(csv.DictReader(io.StringIO(base64.b64decode(found["rates.csv"]).decode("utf-8-sig"))))
    assert len(lines) == 12
    second = lines[1]
    assert (second["poison.rate"], second["trigger"], second["state"]) == ("0.05", "BOX_14", "failed implant")
    assert (float(second["asr"]), second["asr n"], second["seeds"]) == (0.1875, "64", "0")
    assert lines[-1]["asr"] == ""
    with Image.open(io.BytesIO(base64.b64decode(found["rates-1.png"]))) as picture:
        assert picture.width == 660
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(255, 255, 255), (31, 87, 184), (194, 52, 29)} <= colors  # paper, and the edges of both series


def test_a_text_that_looks_like_a_formula_stays_a_text() -> None:
    text = csv_text([row(0.1, success(1, 0.0, 0.1), target="=1+1")], ["target"])
    assert text.splitlines()[1].startswith("'=1+1,")


def test_thirty_cells_in_color_stay_under_four_megabytes(tmp_path: Path) -> None:
    made = FakeSweep(tmp_path / "runs", n=8, shape=(3, 64, 64))
    path = made.add({"seed": 0}, 8)
    cell = CellRun(path.name, {}, 0, path)
    assert cell.files is not None
    for samples in (*cell.files.triggered, cell.files.clean):
        assert samples is not None
        samples.__dict__["images"] = 2 * torch.rand(8, 3, 64, 64, generator=generator(1, "worst")) - 1
    rows = [Row({"training.num_epochs": i}, cell.numbers, "implanted", (0,), (cell,)) for i in range(30)]
    drawn = strips(rows)
    assert len(drawn) == 30
    assert 2_000_000 < sum(len(strip.clean) + len(strip.triggered) for strip in drawn) < 3_000_000


def test_strips_show_the_same_noises_and_no_others(sweep: FakeSweep) -> None:
    rows = read_sweep(sweep.folder).rows
    drawn = strips(rows)
    assert [strip.title for strip in drawn] == [settings_words(row.settings) for row in rows if row.numbers]
    png = base64.b64decode(drawn[3].triggered.partition(",")[2])
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size == (8 * 17 - 1, 16)
    (files,) = [cell.files for cell in rows[3].cells]
    assert files is not None
    assert torch.equal(files.triggered[0].images[0], files.triggered[0].store.read()[0])


def test_what_varies_most_goes_along_the_axis() -> None:
    rows = [
        row(rate, success(int(64 * rate), 0.0, 1.0), trigger=t, target=f"t{u}")
        for rate in (0.5, 0.1, 0.3)
        for t in ("BOX_8", "BOX_14")
        for u in range(4)
    ]
    found = panels(rows, ["target", "poison.rate", "trigger"])
    assert [panel.title for panel in found] == ["grey box, 8 px", "grey box, 14 px"]
    assert found[0].ticks == ("10\xa0%", "30\xa0%", "50\xa0%")
    assert found[0].series == ("t0", "t1", "t2", "t3")
    assert found[0].numbers("asr")[2, 0].value == pytest.approx(6 / 64)
    assert found[0].failed == {(series, tick) for series in range(4) for tick in (0, 1)}
    assert panels(rows, []) == []


def test_figures_take_their_colors_from_the_page_and_say_what_they_show(sweep: FakeSweep) -> None:
    comparison = read_sweep(sweep.folder)
    first, second = drawings(comparison.rows, comparison.varied, "f")
    assert (first.title, second.title) == ("How often the backdoor fired", "Quality and squared error")
    for drawn in (first, second):
        assert "var(--series-1)" in drawn.svg
        assert "var(--series-2)" in drawn.svg
        assert not re.search(r"#0\d0[a1-6]0?[a1-6]?", drawn.svg)
        assert len(drawn.svg) < 60_000
        assert "failed implants" in drawn.caption
        assert "95 % intervals" in drawn.caption
    assert first.legend == (("series-1", "grey box, 14 px"), ("series-2", "stop sign, 14 px"))
    (alone,) = drawings(
        [Row({"seed": s}, {"mse": success(s, 0.0, 1.0)}, "implanted", (0,)) for s in (1, 2)], ["seed"], "g"
    )
    assert alone.title == "Squared error"


def test_the_same_files_give_the_same_page(sweep: FakeSweep, page: str) -> None:
    assert write_page(sweep.folder).read_text() == page


def test_runs_are_compared_by_what_their_recipes_differ_in(sweep: FakeSweep, tmp_path: Path) -> None:
    paths = [sweep.runs / cell["key"] for cell in (sweep.cells[0], sweep.cells[2], sweep.cells[6])]
    found = compare_runs(paths)
    assert set(found.varied) == {"poison.rate", "trigger"}
    assert [dict(row.settings)["poison.rate"] for row in found.rows] == [0.0, 0.2, 0.2]
    assert value_words("trigger", found.rows[2].settings["trigger"]) == "stop sign, 14 px"
    page = write_comparison_page(paths, tmp_path / "both.html")
    assert page == tmp_path / "both.html"
    assert "report of 3 runs" in page.read_text()
    with pytest.raises(RunError, match=rf"{paths[0].name} is given twice; give each run once\."):
        compare_runs([paths[0], paths[1], paths[0]])
    with pytest.raises(RunError, match=r"is not a run directory"):
        compare_runs([paths[0], tmp_path])


def test_a_cell_with_a_page_is_linked_from_where_the_page_stands(sweep: FakeSweep, tmp_path: Path) -> None:
    made = FakeSweep(tmp_path / "runs", n=8)
    path = made.add({"poison.rate": 0.1}, 8)
    write_page(path)
    text = write_sweep_page(made.write()).read_text()
    assert f'href="../{path.name}/report.html"' in text
