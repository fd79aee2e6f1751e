"""The verbs of the benchmark, on a toy zoo and with methods cut to nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from baddiffusion.benchmark import contenders
from baddiffusion.benchmark.leak_detector import Leak
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.errors import EvaluationError
from toy_zoo import write_toy_zoo

ONE_CELL = ("--only", "leak-short", "--model", "bad")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_zoo(tmp_path_factory.mktemp("bench") / "zoo")


@pytest.fixture(autouse=True)
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leak test and the scan at their least, and numbers of ordinary pictures on four of them."""
    table = contenders.plan_table()
    lines = {line["name"]: line for line in table["method"]}
    lines["leak"]["short"] = {"samples": 2, "ancestral_steps": 1, "ode_steps": 1}
    monkeypatch.setattr(contenders, "plan_table", lambda: table)
    monkeypatch.setattr("baddiffusion.defending.yardstick.KD_LEAST", 4)
    monkeypatch.setattr("baddiffusion.benchmark.adaptive.KD_LEAST", 4)
    monkeypatch.setattr("baddiffusion.benchmark.adaptive.N", 4)


@pytest.fixture
def broken(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leak test crashes on one model."""
    usual, bad = Leak.examine, next(iter(zoo.glob("bad-[0-9a-f]*")))
    digest = Checkpoint.open(bad / "checkpoint").digest

    def crash(self: Any, subject: Any, *args: Any) -> Any:
        if subject.sealed.digest == digest:
            raise ZeroDivisionError("a method's own bug")
        return usual(self, subject, *args)

    monkeypatch.setattr(Leak, "examine", crash)


def test_cells_are_run_once_and_end_in_a_page(ask, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    call = ("bench", "--zoo", zoo, "--short", *ONE_CELL, "-o", tmp_path / "b")
    told = ask(*call)
    assert told.code == 0, told.err
    assert told.out == f"1 of 1 cells are finished.\npage  {tmp_path / 'b' / 'report.html'}\n"
    assert "1 of 1 cells are left: 4 network calls, about " in told.err
    assert "1 of 1  leak-short  bad  seed 0  done" in told.err
    (tmp_path / "b" / "report.html").unlink()
    monkeypatch.setattr(Leak, "examine", lambda *a: pytest.fail("ran twice"))
    again = ask(*call)
    assert (again.code, again.out) == (0, told.out)
    assert "0 of 1 cells are left" in again.err
    assert (tmp_path / "b" / "report.html").exists()
    (found,) = ask(*call, "--json").json()["finished"]
    assert (found["label"], found["outcome"]) == ("leak-short", "measured")


def test_a_dry_run_says_the_cost_and_writes_nothing(ask, zoo: Path, tmp_path: Path):
    call = ("bench", "--zoo", zoo, "--short", "--only", "leak", "no-repair", "-o", tmp_path / "b", "--dry-run")
    told = ask(*call)
    assert told.code == 0, told.err
    for row in ("7, of which 7 are left", "leak-short", "measuring", "in all", "one cell after another"):
        assert row in told.out
    cost = ask(*call, "--json").json()
    assert (cost["cells"], cost["left"]) == (7, 7)
    assert cost["network_calls"] == sum(cost["by_method"].values())
    assert not (tmp_path / "b").exists()


def test_a_method_that_crashes_costs_its_cell_and_exits_with_2(ask, zoo: Path, tmp_path: Path, broken):
    call = ("bench", "--zoo", zoo, "--short", "--only", "leak", "--model", "bad", "calm", "-o", tmp_path / "b")
    told = ask(*call)
    assert told.code == 2
    assert told.out.startswith("1 of 2 cells are finished.")
    assert told.err.splitlines()[-1] == (
        f"error: 1 of 2 cells failed, see {tmp_path / 'b' / 'failures'}. The first is leak-short on bad: "
        f"ZeroDivisionError: a method's own bug"
    )
    assert "leak-short  bad  seed 0  failed  ZeroDivisionError: a method's own bug" in told.err
    (text,) = (tmp_path / "b" / "failures").glob("*.txt")
    assert "raise ZeroDivisionError" in text.read_text()
    assert "a method&#39;s own bug" in (tmp_path / "b" / "report.html").read_text()
    as_json = ask(*call, "--json")
    (failed,) = as_json.json()["failed"]
    assert (as_json.code, failed["error"]) == (2, "ZeroDivisionError: a method's own bug")


def test_a_failed_cell_is_tried_again(ask, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    call = ("bench", "--zoo", zoo, "--short", *ONE_CELL, "-o", tmp_path / "b")

    def refuse(self: Any, *args: Any) -> None:
        raise EvaluationError("not today")

    with monkeypatch.context() as patched:
        patched.setattr(Leak, "examine", refuse)
        assert ask(*call).code == 2
    told = ask(*call)
    assert (told.code, told.out.splitlines()[0]) == (0, "1 of 1 cells are finished.")
    assert not list((tmp_path / "b" / "failures").iterdir())


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_model_that_is_damaged_costs_its_cells_alone(ask, zoo: Path, tmp_path: Path, damage: str):
    other = tmp_path / "zoo"
    shutil.copytree(zoo, other)
    (path,) = other.glob("calm-*/checkpoint/unet/*.safetensors")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        shutil.rmtree(path.parents[1])
    call = ("bench", "--zoo", other, "--short", "--only", "leak", "--model", "bad", "calm", "-o", tmp_path / "b")
    told = ask(*call)
    assert (told.code, told.out.splitlines()[0]) == (2, "1 of 2 cells are finished.")
    assert "The first is leak-short on calm: " in told.err.splitlines()[-1]


def test_a_zoo_whose_manifest_lists_what_is_not_there_is_told(ask, zoo: Path, tmp_path: Path):
    other = tmp_path / "zoo"
    shutil.copytree(zoo, other)
    (folder,) = other.glob("calm-*")
    shutil.rmtree(folder)
    told = ask("bench", "--zoo", other, "--short", *ONE_CELL, "-o", tmp_path / "b")
    assert (told.code, told.out) == (2, "")
    assert told.err == (
        f"error: the manifest of {other} lists calm, and {folder.name} is not there or not whole; make the manifest "
        f"again with: baddiffusion zoo manifest\n"
    )


def test_the_page_is_written_again_and_elsewhere(ask, zoo: Path, tmp_path: Path):
    ask("bench", "--zoo", zoo, "--short", *ONE_CELL, "-o", tmp_path / "b")
    told = ask("bench", "report", tmp_path / "b", "-o", tmp_path / "page.html")
    assert (told.code, told.out) == (0, f"page  {tmp_path / 'page.html'}\n")
    assert (tmp_path / "page.html").read_text() == (tmp_path / "b" / "report.html").read_text()


def test_records_are_written(ask, zoo: Path, tmp_path: Path):
    ask("bench", "--zoo", zoo, "--short", *ONE_CELL, "-o", tmp_path / "b")
    told = ask("bench", "records", tmp_path / "b", "-o", tmp_path / "claims")
    assert told.code == 0, told.err
    files = [path for path in (tmp_path / "claims").glob("*.json") if "schema" not in path.name]
    assert told.out == f"0 of {len(files)} claims are measured: {tmp_path / 'claims'}\n"


def test_who_competes_is_listed(ask):
    told = ask("bench", "list")
    rows = [line.split() for line in told.out.splitlines()]
    assert rows[0] == ["method", "kind", "budget", "network", "calls", "score"]
    assert ["leak-short", "detector", "short"] in [row[:3] for row in rows]
    listed = ask("bench", "list", "--json").json()
    assert [one["label"] for one in listed] == [row[0] for row in rows[1:]]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--seed", "-1"), "--seed is -1; it must be at least 0."),
        (("--only", "elija"), "--only elija is not in the benchmark. Did you mean 'elijah'?"),
        (("--model", "nobody"), "--model nobody is in no zoo. Give a name, or at least six digits of a digest"),
        (("--model", "worse"), "--model worse is a failed implant, and not judged."),
        (("--split", "test", "--model", "calm"), "no cell is left: no judged model fits --split and --model"),
        (("--shard", "3/2"), "shard"),
        (("--zoo", "nowhere"), "nowhere is not a zoo (no manifest.json); make one with: baddiffusion zoo build"),
    ],
)
def test_a_mistake_is_told_in_one_line(ask, zoo: Path, tmp_path: Path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    told = ask("bench", "--zoo", zoo, *flags)
    assert (told.code, told.out) == (2, "")
    assert told.err.splitlines()[-1].startswith("error: ")
    assert said in told.err
    assert list(tmp_path.iterdir()) == []


# -- attackers who evade -----------------------------------------------------------------------------------------------


def test_attackers_of_all_kinds_share_a_folder(ask, zoo: Path, tmp_path: Path):
    told = ask("bench", "adapt", "--zoo", zoo, "-o", tmp_path / "a", "--share", "0.25")
    assert told.code == 0, told.err
    assert told.out == (f"1 averaged-in in {tmp_path / 'a'}; of 1 the backdoor does not fire in half of the noises.\n")
    told = ask("bench", "adapt", "near-misses", "--zoo", zoo, "-o", tmp_path / "a", "--share", "0.25")
    assert told.code == 0, told.err
    assert told.out == (
        f"1 averaged-in, 1 near-misses in {tmp_path / 'a'}; of 2 the backdoor does not fire in half of the noises.\n"
    )
    assert "1 of 1 models are left: 8 training images and 16 network calls" in told.err
    assert "bad-near-misses  done" in told.err
    models = json.loads((tmp_path / "a" / "manifest.json").read_text())["models"]
    assert [(m["name"], m["adaptive"], m["price"]) for m in models] == [
        ("bad-averaged-in", "averaged-in", "a second training, of the clean twin"),
        ("bad-near-misses", "near-misses", "25% of the training images as decoys, no step more"),
    ]
    card = Checkpoint.open(tmp_path / "a" / models[1]["folder"] / "checkpoint").card
    assert card is not None
    assert card.decoys == {"name": "near-misses", "rate": 0.25, "count": 512, "least_distance": 4.0}
    assert models[1]["pair"] == "bad"


def test_a_training_is_not_done_twice(ask, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    call = ("bench", "adapt", "known-probes", "--zoo", zoo, "-o", tmp_path / "a")
    first = ask(*call)
    monkeypatch.setattr("baddiffusion.sweep.running.run_recipe", lambda *a: pytest.fail("ran twice"))
    again = ask(*call)
    assert (again.code, again.out) == (0, first.out)
    assert "0 of 1 models are left" in again.err
    assert ask(*call, "--json").json() == json.loads((tmp_path / "a" / "manifest.json").read_text())


def test_a_training_that_fails_is_told_and_the_manifest_written(ask, zoo: Path, tmp_path: Path, monkeypatch):
    def fail(*arguments: Any) -> None:
        raise EvaluationError("no power")

    monkeypatch.setattr("baddiffusion.sweep.running.run_recipe", fail)
    told = ask("bench", "adapt", "near-misses", "--zoo", zoo, "-o", tmp_path / "a")
    assert told.code == 2
    assert told.err.splitlines()[-1].startswith("error: 1 of 1 trainings failed. The first is bad-near-misses: ")
    assert told.out.startswith("no model in ")
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["models"] == []


def test_what_attackers_cost_is_said_before(ask, zoo: Path, tmp_path: Path):
    folder = tmp_path / "a"
    trained = ask("bench", "adapt", "near-misses", "--zoo", zoo, "-o", folder, "--dry-run", "--json").json()
    assert (trained["models"], trained["left"], trained["train_images"]) == (1, 1, 8)
    longer = ask("bench", "adapt", "near-misses", "--zoo", zoo, "--longer", "2.5", "--dry-run", "--json").json()
    assert longer["train_images"] == 20
    averaged = ask("bench", "adapt", "--zoo", zoo, "-o", folder, "--dry-run", "--json").json()
    assert averaged["models"] == 1
    assert averaged["network_calls"] > 0
    assert "1, of which 1 are left" in ask("bench", "adapt", "near-misses", "--zoo", zoo, "--dry-run").out
    assert not folder.exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("near-misses", "--model", "calm"), "has no backdoored model among those asked for, so that there is nothing"),
        (("near-misses", "--share", "0.9"), "decoys.rate is 0.9 beside a poison rate of 0.5"),
        (("near-misses", "--share", "0"), "rate is 0.0; it must lie in (0, 1]. Write 0.20 for twenty percent."),
        (("averaged-in", "--share", "0"), "share is 0.0; it must lie in (0, 1]."),
        (("near-misses", "--longer", "0.5"), "longer is 0.5; it must be at least 1, for as many steps as the parent."),
        (("averaged-in", "--longer", "2"), "--longer is for the trainings of near-misses and known-probes"),
        (("averaged-in", "--workers", "2"), "--workers is for the trainings of near-misses and known-probes"),
        (("near-mises",), "near-mises"),
    ],
)
def test_a_mistake_of_an_attacker_is_told_in_one_line(ask, zoo: Path, tmp_path: Path, flags, said):
    told = ask("bench", "adapt", *flags, "--zoo", zoo, "-o", tmp_path / "a")
    assert (told.code, told.out) == (2, "")
    assert told.err.splitlines()[-1].startswith("error: ")
    assert said in told.err
    assert not (tmp_path / "a" / "manifest.json").exists()
