"""Experiment trackers: the losses of `events.jsonl` passed on through accelerate, for those who ask for one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from baddiffusion.errors import RunError, nearest
from baddiffusion.training.meter import Progress

__all__ = ["require_tracker", "tracking"]

PROJECT = "baddiffusion"
OFFLINE = {
    "clearml": ("CLEARML_OFFLINE_MODE", "1"),
    "comet_ml": ("COMET_START_ONLINE", "0"),
    "swanlab": ("SWANLAB_MODE", "offline"),
    "wandb": ("WANDB_MODE", "offline"),
}
"""Trackers that would log in somewhere, and what keeps them from it; a user who sets the variable decides."""
DISTRIBUTIONS = {"tensorboard": "'baddiffusion[track]'", "comet_ml": "comet-ml"}


def require_tracker(name: str) -> None:
    """See to it that accelerate can log to ``name`` here.

    Raises:
        RunError: accelerate does not know it, or its package is not installed.
    """
    offered, installed = sorted(LOGGER_TYPE_TO_CLASS), sorted(str(tracker) for tracker in get_available_trackers())
    here = f"Installed here: {', '.join(installed) or 'none'}."
    if name not in offered:
        raise RunError(
            f"tracker {name!r} is unknown. {nearest(name, offered)}accelerate offers {', '.join(offered)}. {here}"
        )
    if name not in installed:
        raise RunError(
            f"tracker {name!r} is not installed; run pip install {DISTRIBUTIONS.get(name, name)}, or leave --tracker "
            f"out. accelerate offers {', '.join(offered)}. {here}"
        )


@contextmanager
def tracking(
    name: str | None, folder: Path, run: str, settings: Mapping[str, Any], reached: int = 0
) -> Iterator[Callable[[Progress], None]]:
    """Log to a tracker while the block runs; on the main process only.

    Nobody is asked to log in: a tracker with a server is kept offline, unless its own variable says otherwise.

    Args:
        name: as accelerate knows it; None logs nothing.
        folder: where the tracker keeps its files, as far as it can be told where.
        run: the run's name.
        settings: shown beside the curves; tables are flattened to dotted keys.
        reached: the step at which the training goes on. TensorBoard drops what it was told of later steps before;
            others show a resumed training as a run of its own.

    Yields:
        What is to be called with every `Progress`.

    Raises:
        RunError: the tracker is unknown, not installed, could not be started, or fails.
    """
    if name is None:
        yield lambda progress: None
        return
    require_tracker(name)
    kwargs = {"tensorboard": {"purge_step": reached + 1}, "wandb": {"dir": str(folder), "name": run}}
    with _blamed(name, "could not be started"), _offline(name):
        folder.mkdir(parents=True, exist_ok=True)
        accelerator = Accelerator(log_with=name, project_dir=str(folder))
        accelerator.init_trackers(PROJECT, _flat(settings), kwargs)

    def log(progress: Progress) -> None:
        values = {key: value for key, value in progress.to_dict().items() if key not in ("step", "total")}
        with _blamed(name, f"failed at step {progress.step}"):
            accelerator.log({key: value for key, value in values.items() if value is not None}, step=progress.step)

    try:
        yield log
    finally:
        for tracker in accelerator.trackers:  # `end_training` would also take the processes of torchrun apart
            tracker.finish()


@contextmanager
def _blamed(name: str, what: str) -> Iterator[None]:
    """Whatever a tracker raises is the tracker's."""
    try:
        yield
    except Exception as error:
        raise RunError(
            f"tracker {name!r} {what} ({type(error).__name__}: {error}); mend it, or start the same command without "
            f"--tracker."
        ) from error


@contextmanager
def _offline(name: str) -> Iterator[None]:
    variable, value = OFFLINE.get(name, ("", ""))
    ours = bool(variable) and variable not in os.environ
    if ours:
        os.environ[variable] = value
    try:
        yield
    finally:
        if ours:
            del os.environ[variable]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys, and values that every tracker can show: lists are written as JSON."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list) else value
    return flat
