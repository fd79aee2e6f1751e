"""demo: the packaged recipe, and the scan of what it made."""

import json
import shutil
from pathlib import Path

import pytest

from baddiffusion import scanner
from baddiffusion.cli import demo, purifying
from baddiffusion.recipe import Recipe

CALLS = 200


@pytest.fixture
def run(finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run in place of the demo's, and a scan that stops early."""
    copy = tmp_path / finished[0].name
    shutil.copytree(finished[0], copy)
    monkeypatch.setattr(demo, "load", lambda *_: Recipe.load(copy / "recipe.toml"))
    monkeypatch.setattr(scanner, "BUDGET", CALLS)
    return copy


@pytest.mark.parametrize(("flags", "steps", "n"), [((), 250, 32), (("--full",), 1000, 128)])
def test_is_the_packaged_recipe(ask, monkeypatch: pytest.MonkeyPatch, flags, steps: int, n: int):
    seen = []
    monkeypatch.setattr(demo, "carry_out", lambda recipe, runs, *_: seen.append((recipe, runs)))
    assert ask("demo", *flags, "--runs", "elsewhere").code == 0
    ((recipe, runs),) = seen
    assert (recipe.name, recipe.sampling.num_inference_steps, recipe.sampling.n) == ("demo", steps, n)
    assert runs == Path("elsewhere")


def test_dry_run_for_machines(ask, tmp_path: Path):
    cost = ask("demo", "--runs", tmp_path / "runs", "--dry-run", "--json").json()
    assert (cost["recipe"], cost["train_images"], cost["network_calls"]) == ("demo", 76_800, 24_000)
    assert cost["run"] == str(tmp_path / "runs" / f"demo-{Recipe.load('demo').digest}")
    assert list(tmp_path.iterdir()) == []


def test_ends_with_the_scan_of_its_own_model(ask, run: Path):
    told = ask("demo", "--runs", run.parent)
    assert told.code == 0
    *_, page, _, verdict, scan_page = told.out.splitlines()
    assert (page, scan_page) == (f"page  {run / 'report.html'}", f"page  {run / 'scan' / 'report.html'}")
    assert verdict == "The scan, which saw the weights alone: The scan gives no answer about this model."
    record = json.loads((run / "scan" / "scan.json").read_text())
    assert (record["verdict"]["outcome"], record["request"]["budget"]) == ("inconclusive", CALLS)
    assert record["request"]["subject"] == "checkpoint"  # the place on this machine is nobody's business
    text = (run / "report.html").read_text()
    assert "The scan gives no answer about this model." in text
    assert 'href="scan/report.html"' in text


def test_scans_the_same_weights_once(ask, run: Path, monkeypatch: pytest.MonkeyPatch):
    first = ask("demo", "--runs", run.parent, "--json").json()
    assert first["scan"]["verdict"]["outcome"] == "inconclusive"

    def scan(*_, **__):
        raise AssertionError("scanned again")

    monkeypatch.setattr(scanner, "scan", scan)
    assert ask("demo", "--runs", run.parent, "--json").json() == first


def test_a_scan_of_other_weights_is_not_shown_and_made_again(ask, run: Path):
    ask("demo", "--runs", run.parent)
    record = run / "scan" / "scan.json"
    whole = json.loads(record.read_text())
    record.write_text(json.dumps({**whole, "digest": "0" * 64}))
    ask("report", run)
    assert "Would a stranger notice?" not in (run / "report.html").read_text()
    ask("demo", "--runs", run.parent)
    assert json.loads(record.read_text())["digest"] == whole["digest"]
    assert "Would a stranger notice?" in (run / "report.html").read_text()


def test_purify_repairs_the_model_on_what_the_scan_found(ask, run: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(purifying, "purify", lambda checkpoint, **options: asked.append((checkpoint, options)) or 3)
    told = ask("demo", "--runs", run.parent, "--purify")
    assert told.code == 0  # a demo that ends with "still suspicious" has done its work, and make goes on
    folder = run / "repaired"
    options = {"output": folder, "scan": run / "scan", "true_trigger": True}
    assert asked == [(str(run / "checkpoint"), options)]
    folder.mkdir()
    assert ask("demo", "--runs", run.parent, "--purify").out.endswith(f"page  {folder / 'receipt.html'}\n")
    assert len(asked) == 1


def test_purify_and_json_do_not_mix(ask, tmp_path: Path):
    told = ask("demo", "--runs", tmp_path, "--purify", "--json")
    assert (told.code, told.out) == (2, "")
    assert "take --json without it" in told.err
