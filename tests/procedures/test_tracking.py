"""Trackers of accelerate: TensorBoard for real, and what is told about the others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import LoggerType

from baddiffusion import pipeline
from baddiffusion.errors import RunError
from baddiffusion.pipeline import run_recipe
from baddiffusion.recipe import Recipe
from baddiffusion.rundir import EventLog, RunDir
from baddiffusion.training import Progress, require_tracker, tracking

writer = pytest.importorskip(
    "tensorboard.summary.writer.event_file_writer", reason="the extra [track] is not installed"
)
accumulating = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

SMALL = [
    *("data.limit=32", "training.max_train_steps=6", "training.train_batch_size=8", "training.lr_warmup_steps=1"),
    *("training.checkpointing_steps=4", "training.logging_steps=1"),
]
PROGRESS = Progress(step=3, total=6, loss_clean=0.5, loss_poisoned=None, lr=1e-3, images_per_s=80.0)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch):
    # Files of one second are told apart by a count, and read in the order of their names: 10 would stand before 9.
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(0))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(runs: Path, *extra: str, tracker: str | None = "tensorboard") -> RunDir:
    return run_recipe(Recipe.load("smoke", [*SMALL, *extra]), runs, until="train", tracker=tracker)


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run."""
    events = accumulating.EventAccumulator(str(run / "tracking" / "baddiffusion"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """What events.jsonl holds, in TensorBoard's float32."""
    events, found = EventLog(run / "events.jsonl").read(), {}
    for key in ("loss_clean", "loss_poisoned", "lr", "images_per_s"):
        values = [(e["step"], torch.tensor(e[key]).item()) for e in events if e[key] is not None]
        found |= {key: values} if values else {}
    return found


def test_tensorboard_holds_what_events_jsonl_holds(tmp_path: Path) -> None:
    run = trained(tmp_path)
    assert [step for step, _ in logged(run.path)["loss_clean"]] == [1, 2, 3, 4, 5, 6]
    assert curves(run.path) == logged(run.path)
    (settings,) = (run.path / "tracking").rglob("hparams.yml")
    assert f"training.learning_rate: {Recipe.load('smoke').training.learning_rate}\n" in settings.read_text()


def test_a_loss_that_does_not_exist_is_left_out(tmp_path: Path) -> None:
    run = trained(tmp_path, "poison.rate=0.0")
    assert set(curves(run.path)) == {"loss_clean", "lr", "images_per_s"}


@pytest.mark.parametrize("stop", [2, 5])
def test_a_resumed_training_shows_no_step_twice(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = EventLog.append

    def stopping(self: EventLog, event: dict[str, Any]) -> None:
        append(self, event)
        if event["step"] > stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EventLog, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path)
    (path,) = tmp_path.iterdir()
    before = curves(path)["loss_clean"]
    assert [step for step, _ in before] == list(range(1, stop + 1))
    run = trained(tmp_path)
    assert len(list((run.path / "tracking/baddiffusion").glob("events.*"))) == 2
    assert curves(run.path) == logged(run.path)


def test_no_tracker_by_default_and_none_in_the_runs_identity(tmp_path: Path) -> None:
    without, tracked = trained(tmp_path / "a", tracker=None), trained(tmp_path / "b")
    assert not (without.path / "tracking").exists()
    assert (without.path.name, without.record["stages"]["train"]["outputs"].keys()) == (
        tracked.path.name,
        tracked.record["stages"]["train"]["outputs"].keys(),
    )
    assert "tracker" not in json.dumps(tracked.record["stages"])


def test_a_finished_training_is_not_logged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)
    before = sorted((run.path / "tracking").rglob("*"))
    monkeypatch.setattr(pipeline, "train", lambda *a, **k: pytest.fail("trained twice"))
    trained(tmp_path)
    assert sorted((run.path / "tracking").rglob("*")) == before


def test_an_unknown_tracker_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(
        RunError,
        match=r"^tracker 'tensorbord' is unknown. Did you mean 'tensorboard'\? accelerate offers aim, .*, wandb. "
        r"Installed here: .*tensorboard.*\.$",
    ):
        trained(tmp_path, tracker="tensorbord")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", r"'baddiffusion\[track\]'"), ("comet_ml", "comet-ml"), ("wandb", "wandb")]
)
def test_a_tracker_that_is_not_installed_says_how_to_get_it(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.raises(
        RunError,
        match=rf"^tracker '{name}' is not installed; run pip install {package}, or leave --tracker out. accelerate "
        r"offers aim, .*, wandb. Installed here: none.$",
    ):
        require_tracker(name)
    with pytest.raises(RunError, match="is not installed"):
        trained(tmp_path, tracker=name)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_cannot_start_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*arguments: Any) -> None:
        raise ValueError("no such project")

    monkeypatch.setattr(Accelerator, "init_trackers", refusing)
    monkeypatch.setattr(pipeline, "train", lambda *a, **k: pytest.fail("trained first"))
    with pytest.raises(
        RunError,
        match=r"^tracker 'tensorboard' could not be started \(ValueError: no such project\); mend it, or start the "
        r"same command without --tracker.$",
    ):
        trained(tmp_path)


def test_a_tracker_that_fails_is_told_by_its_name_and_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any, **rest: Any) -> None:
        raise OSError("disk full")

    closed = []
    monkeypatch.setattr(Accelerator, "log", failing)
    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.finish", lambda self: closed.append(self.name))
    with (
        pytest.raises(RunError, match=r"^tracker 'tensorboard' failed at step 3 \(OSError: disk full\); mend it"),
        tracking("tensorboard", tmp_path, "a-run", {}) as tell,
    ):
        tell(PROGRESS)
    assert closed == ["tensorboard"]


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("wandb", "WANDB_MODE", "offline"),
        ("swanlab", "SWANLAB_MODE", "offline"),
        ("comet_ml", "COMET_START_ONLINE", "0"),
        ("clearml", "CLEARML_OFFLINE_MODE", "1"),
    ],
)
@pytest.mark.parametrize("chosen", [None, "online"])
def test_nobody_is_asked_to_log_in_unless_they_chose_so(
    name: str, variable: str, value: str, chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType(name)])
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, *given: seen.append((os.environ[variable], *given)))
    if chosen is None:
        monkeypatch.delenv(variable, raising=False)
    else:
        monkeypatch.setenv(variable, chosen)
    settings = {"seed": 3, "training": {"learning_rate": 1e-3, "snapshot_steps": [1, 2]}}
    with tracking(name, tmp_path / "tracking", "a-run", settings):
        pass
    ((mode, project, config, kwargs),) = seen
    assert mode == (chosen or value)
    assert os.environ.get(variable) == chosen
    assert project == "baddiffusion"
    assert config == {"seed": 3, "training.learning_rate": 1e-3, "training.snapshot_steps": "[1, 2]"}
    assert kwargs["wandb"] == {"dir": str(tmp_path / "tracking"), "name": "a-run"}
