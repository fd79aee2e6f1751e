import json
from pathlib import Path

import pytest
import torch

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.errors import EvaluationError, RecipeError
from baddiffusion.models import build, unet_config
from baddiffusion.pipeline import FRESH_SCHEDULER

SCHEDULER = {**FRESH_SCHEDULER, "num_train_timesteps": 100}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained 8×8 network."""
    path = tmp_path_factory.mktemp("scanned") / "untrained"
    Checkpoint.write(path, build(unet_config("micro", (1, 8, 8)), seed=0), SCHEDULER)
    return path


def test_a_scan_leaves_a_page_its_numbers_and_its_evidence(ask, model: Path, tmp_path: Path):
    told = ask("scan", model, "--budget", "700", "-o", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "evidence.safetensors", "report.html", "scan.json"]
    record = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert told.code == record["exit_code"]
    assert told.out.startswith(f"{record['verdict']['outcome']}: untrained\n  {record['verdict']['reasons'][0]}\n")
    assert "At most 700 network calls, about " in told.err
    assert record["dynamic"]["budget"] == 700
    assert record["request"]["command"] == "baddiffusion scan untrained --seed 0 --budget 700"
    assert f"page  {tmp_path / 'out' / 'report.html'}" in told.out
    assert str(model.parent) not in "".join(
        p.read_text() for p in (tmp_path / "out").iterdir() if p.suffix != ".safetensors"
    )


def test_a_budget_of_time_becomes_calls_once_and_the_calls_give_the_same_scan(ask, model, tmp_path, monkeypatch):
    monkeypatch.setattr("baddiffusion.sampling.timing.seconds_per_call", lambda *_: 0.08)
    first = ask("scan", model, "--budget", "7s", "--json").json()
    assert first["request"]["asked"] == "7s"
    assert first["request"]["seconds_per_call"] == 0.01
    assert first["dynamic"]["budget"] == 700
    command = first["request"]["command"].split()[3:]
    again = ask("scan", model, *command, "--json").json()
    ours = {"request", "seconds"}
    assert {k: v for k, v in first.items() if k not in ours} == {k: v for k, v in again.items() if k not in ours}


def test_too_small_a_budget_is_no_answer(ask, model: Path):
    told = ask("scan", model, "--budget", "10", "--json")
    assert told.code == 4
    assert told.json()["verdict"]["outcome"] == "inconclusive"


def test_a_schedule_shorter_than_a_probe_is_sampled_in_all_its_steps(ask, tmp_path: Path):
    short = tmp_path / "short"
    Checkpoint.write(short, build(unet_config("micro", (1, 8, 8)), seed=0), {**SCHEDULER, "num_train_timesteps": 10})
    dynamic = ask("scan", short, "--budget", "700", "--json").json()["dynamic"]
    assert (dynamic["settings"]["ancestral_steps"], dynamic["settings"]["ode_steps"]) == (10, 10)
    assert dynamic["spent"]["network_calls"] == 320


def test_a_scan_that_breaks_off_can_be_repeated_by_its_command(ask, model: Path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise EvaluationError("image 0 became NaN at t = 3.")

    monkeypatch.setattr("baddiffusion.scanner.scanning.examine", broken)
    told = ask("scan", model, "--seed", "5", "--budget", "700", "--json")
    assert (told.code, told.json()["dynamic"]) == (4, None)
    assert told.json()["verdict"]["reasons"] == ["The samples could not be made: image 0 became NaN at t = 3."]
    assert told.json()["request"]["command"] == "baddiffusion scan untrained --seed 5 --budget 700"


def test_files_only_calls_no_network(ask, model: Path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("the network was called"))
    told = ask("scan", model, "--files-only", "--json")
    assert told.code == 4
    record = told.json()
    assert (record["verdict"]["outcome"], record["dynamic"]) == ("not examined", None)
    assert record["request"]["command"] == "baddiffusion scan untrained --files-only"


def test_json_and_sarif_alone_write_no_folder(ask, model: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ask("scan", model, "--files-only", "--sarif").json()["version"] == "2.1.0"
    assert ask("scan", model, "--files-only", "--json").json()["schema"] == 2
    assert list(tmp_path.iterdir()) == []


def test_sarif_into_a_folder_is_what_is_said(ask, model: Path, tmp_path: Path):
    told = ask("scan", model, "--files-only", "--sarif", "-o", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "scan.sarif").read_text()) == told.json()


def test_without_a_folder_it_is_named_after_the_model(ask, model: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = ask("scan", model, "--files-only")
    assert told.code == 4, told.err
    assert (tmp_path / "scan-untrained" / "report.html").is_file()
    again = ask("scan", model, "--files-only")
    assert (again.code, again.out) == (2, "")
    assert "scan-untrained is not empty, and results are not overwritten" in again.err


def test_a_dry_run_says_the_cost_and_writes_nothing(ask, model: Path, tmp_path: Path):
    told = ask("scan", model, "--dry-run", "-o", tmp_path / "out")
    assert (told.code, told.out) == (0, "")
    assert told.err.startswith("At most 13 000 network calls, about ")
    assert not (tmp_path / "out").exists()


def test_a_base_is_compared_with_and_named_without_its_place(ask, model: Path):
    told = ask("scan", model, "--base", model, "--files-only", "--json")
    assert "BD041" in [finding["rule"] for finding in told.json()["files"]["findings"]]
    assert told.json()["request"]["command"] == "baddiffusion scan untrained --base untrained --files-only"


def test_a_folder_without_a_network_is_reported_not_refused(ask, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    told = ask("scan", tmp_path / "empty", "-o", tmp_path / "out")
    assert told.code == 4
    assert told.out.startswith("not examined: empty\n  the folder is empty\n")
    assert "cannot be loaded" in told.err
    assert "not searched\n  the network: the folder is empty\n  Anything that is not named above" in told.out


def test_an_alarm_of_the_files_is_exit_code_3_and_stands_first(ask, model: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    Checkpoint.write(copy, Checkpoint.open(model).load_model(), SCHEDULER)
    (copy / "outside").symlink_to("/etc/hostname")
    told = ask("scan", copy, "--files-only", "-o", tmp_path / "out")
    assert told.code == 3
    assert "files: 1 alarm\n  warning BD010 outside is a link out of the folder" in told.out
    assert "call for a look" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--json", "--sarif"], "--json and --sarif both ask for standard output"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0."),
        (["--budget", "soon"], "--budget is 'soon'; give a number of network calls"),
        (["--budget", "0"], "--budget is '0'; give a number of network calls"),
        (["--budget", "1.5"], "--budget is '1.5'; give a number of network calls"),
        (["--base", "nowhere"], "'nowhere' does not exist"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(ask, model: Path, flags: list[str], said: str):
    told = ask("scan", model, *flags)
    assert (told.code, told.out) == (2, "")
    assert said in told.err
    assert told.err.count("\n") == 1


def test_a_file_is_no_checkpoint(ask, tmp_path: Path):
    (tmp_path / "weights.bin").write_bytes(b"")
    told = ask("scan", tmp_path / "weights.bin")
    assert told.code == 2
    assert "is a file; give the folder of a checkpoint" in told.err


def test_the_library_has_it_too(model: Path):
    import baddiffusion as bd

    report = bd.scan(model, budget=0)
    assert (report.exit_code, report.verdict.outcome) == (4, "not examined")
    with pytest.raises(RecipeError, match="--budget is '5 days'"):
        bd.cli.scanning.read_budget("5 days")
