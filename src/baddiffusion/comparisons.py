"""Numbers against real pictures that a finished run is given afterwards, each protocol in a file of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from baddiffusion.errors import RunError
from baddiffusion.metrics import Estimate
from baddiffusion.rundir import RunDir, write_atomic

__all__ = ["ACROSS", "comparisons_of", "keep_comparison"]

SCHEMA = 1
FOLDER, STAGE = "comparisons", "compare:comparisons/"
ACROSS = ("kind", "sampler", "scheduler", "steps", "spacing", "clip")
"""What the numbers of one run may differ in and still stand in one table."""


def keep_comparison(path: Path, estimates: Sequence[Estimate], elapsed_s: float) -> Path:
    """Write numbers against real pictures into a finished run, as a stage of its own.

    The file is named after the protocol: the reference, n, the network, its weights, and so on. Another reference is
    another file, so that numbers that must not stand in one table do not stand in one file; the same one once more
    finds its file and leaves it as it is.

    Args:
        path: the run.
        estimates: all of them against one reference, as `comparable` over `ACROSS` allows it.
        elapsed_s: how long measuring took.

    Returns:
        The file.

    Raises:
        RunError: the folder is no run, another process works on it, the file was changed since, or the disk is full.
    """
    run = RunDir.read(path)
    with run.recording():
        file = path / FOLDER / f"{_protocol_digest(estimates)}.json"
        stage, inputs = f"{STAGE}{file.name}", _pictures(run)
        if not run.is_done(stage, inputs):
            content = {"schema": SCHEMA, "estimates": [estimate.to_dict() for estimate in estimates]}
            write_atomic(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
            run.finish(stage, inputs, [file], elapsed_s)
    return file


def comparisons_of(run: RunDir) -> list[list[dict[str, Any]]]:
    """The numbers against real pictures that were kept in a run, one list for each reference, the oldest first.

    Raises:
        RunError: a file was changed or removed since, or another schema wrote it.
    """
    stages = [(name, entry) for name, entry in run.record["stages"].items() if name.startswith(STAGE)]
    found = []
    for name, entry in sorted(stages, key=lambda stage: (stage[1]["finished"], stage[0])):
        run.is_done(name, entry["inputs"])
        file = run.path / name.removeprefix("compare:")
        content = json.loads(file.read_text())
        if content.get("schema") != SCHEMA:
            raise RunError(
                f"{file} has schema {content.get('schema')}; this version reads schema {SCHEMA}. Start the run again."
            )
        found.append(content["estimates"])
    return found


def _protocol_digest(estimates: Sequence[Estimate]) -> str:
    """Of everything that must agree among numbers of one name, 8 hex digits."""
    shared: dict[str, Mapping[str, Any]] = {}
    for estimate in estimates:
        own = {key: value for key, value in estimate.protocol.items() if key not in ACROSS}
        shared.setdefault(estimate.name, {"n": estimate.n, "unit": estimate.unit, **own})
    return hashlib.blake2b(json.dumps(shared, sort_keys=True).encode(), digest_size=4).hexdigest()


def _pictures(run: RunDir) -> dict[str, Any]:
    """Digests of the samples that quality is measured on."""
    stages = run.record["stages"].items()
    return {
        name: entry["outputs"]
        for name, entry in stages
        if name.startswith("sample:") and name.rpartition("/")[2] in ("clean", "base")
    }
