import json
from pathlib import Path

import pytest

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.models import build, unet_config
from baddiffusion.pipeline import FRESH_SCHEDULER

SCHEDULER = {**FRESH_SCHEDULER, "num_train_timesteps": 5}
SMALL = ("--budget", "400", "--rounds", "1", "--n", "4", "--set", "steps=2", "--set", "batch=2", "--set", "pictures=4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained 8×8 network."""
    path = tmp_path_factory.mktemp("purified") / "untrained"
    Checkpoint.write(path, build(unet_config("micro", (1, 8, 8)), seed=0), SCHEDULER)
    return path


@pytest.fixture(autouse=True)
def cheap_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baddiffusion.metrics.features", lambda pixels: pixels.flatten(1).float() / 255)


def test_it_leaves_a_model_and_its_receipt(ask, model: Path, tmp_path: Path):
    told = ask("purify", model, "--anyway", *SMALL, "-o", tmp_path / "out")
    receipt = json.loads((tmp_path / "out" / "receipt.json").read_text())
    assert told.code == receipt["exit_code"], told.err
    assert told.out.startswith(f"{receipt['outcome']}: untrained\n")
    assert f"model  {tmp_path / 'out'}\npage   {tmp_path / 'out' / 'receipt.html'}" in told.out
    assert "network calls, about " in told.err
    kept = Checkpoint.open(tmp_path / "out")
    assert kept.card is not None
    assert kept.card.repair is not None
    assert kept.card.repair.parent == Checkpoint.open(model).digest
    assert receipt["verdict_after"] is not None
    texts = [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".json", ".txt", ".html", ".md")]
    assert {"receipt.txt", "receipt.html"} <= {path.name for path in texts}
    assert str(model.parent) not in "".join(path.read_text() for path in texts)
    again = ask("purify", model, *SMALL, "-o", tmp_path / "out")
    assert (again.code, again.out) == (2, "")
    assert "out exists; nothing is overwritten. Choose another folder with -o." in again.err


def test_without_evidence_it_stops_and_writes_nothing(ask, model: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = ask("purify", model, *SMALL)
    assert told.code in (0, 4)
    assert told.out.startswith(("nothing to repair: untrained\n", "not examined: untrained\n"))
    assert "Nothing was written." in told.out
    as_json = ask("purify", model, *SMALL, "--json").json()
    assert (as_json["folder"], as_json["repaired"], as_json["after"]) == (None, None, [])
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_the_cost_and_writes_nothing(ask, model: Path, tmp_path: Path):
    told = ask("purify", model, "--compare", "--dry-run", "-o", tmp_path / "out")
    assert told.code == 0
    for part in ("scan before, at most", "free switches", "shift-equivariance", "scan after, at most", "comparison"):
        assert part in told.out
    assert "further rounds, at most" in told.out
    assert "further rounds" not in ask("purify", model, "--rounds", "1", "--dry-run").out
    costs = ask("purify", model, "--dry-run", "--json").json()
    assert costs["parts"]["scan before, at most"] == 13_000
    assert costs["network_calls"] == sum(costs["parts"].values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--seed", "-1"), "--seed is -1; it must be at least 0."),
        (("--true-trigger",), "--true-trigger measures what the card names, and that of"),
        (("--n", "0"), "n is 0; it must be at least 1."),
        (("--rounds", "0"), "rounds is 0; it must be at least 1."),
        (("--budget", "0"), "budget is 0; it must be at least 1."),
        (("--set", "steps=0"), "steps is 0; it must be at least 1."),
        (("--set", "stepz=1"), "stepz is not a known key. Did you mean 'steps'?"),
        (("--scan", "nowhere"), "nowhere holds no scan.json; scan first, or leave --scan out."),
    ],
)
def test_a_mistake_is_told_in_one_line(ask, model: Path, tmp_path: Path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    told = ask("purify", model, *flags)
    assert (told.code, told.out) == (2, "")
    assert told.err.splitlines()[-1].startswith("error: ")
    assert said in told.err
    assert list(tmp_path.iterdir()) == []
