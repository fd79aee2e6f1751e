"""A detector at work: what it found, where its scores stand among clean models, and the files about it."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baddiffusion.cli.forecast import RESULTS, empty_folder, here
from baddiffusion.cli.printing import say, say_json
from baddiffusion.cli.progress import watching

if TYPE_CHECKING:
    from baddiffusion.cli.defend_request import Request
    from baddiffusion.defenses import Detection, Detector
    from baddiffusion.defenses.calibration import Calibration

__all__ = ["INCONCLUSIVE", "detect"]

SCHEMA = 1
INCONCLUSIVE = 4
"""The exit code."""
DETECTION, PAGE, RECOVERED = "detection.json", "README.md", "recovered.safetensors"
LARGE_PX = 64
"""Pictures of fewer pixels a side are drawn enlarged."""


def detect(request: Request, detector: Detector, calibration: Path | None) -> int:
    """Look into a model, and say what was found.

    Returns:
        The exit code: 0 measured, 4 inconclusive.
    """
    from baddiffusion.defenses.calibration import Calibration

    clean = request.clean
    data = clean.pixels if clean is not None else None
    detector.check(request.sealed, data)
    standard = Calibration.load(calibration) if calibration is not None else Calibration.packaged(detector.label)
    given = calibration is not None
    if standard is not None and given:
        standard.require(detector.label, detector.to_dict())
    cost = request.forecast({detector.label: detector.cost(request.opened.shape)}, detector.precision)
    if not request.announce(cost):
        return 0
    empty_folder(request.output)
    with watching() as watcher:
        found = detector.inspect(request.sealed, request.seed, data, device=here(), watcher=watcher)
    results = {
        "schema": SCHEMA,
        **request.named,
        "data": clean.words if clean is not None else None,
        "detection": found.to_dict(),
        **_judged(found, standard, request.opened.digest, given),
        "against_target": _against_target(request, found),
    }
    _finish(request, found, results)
    return 0 if found.outcome == "measured" else INCONCLUSIVE


def _judged(found: Detection, standard: Calibration | None, digest: str, given: bool) -> dict[str, Any]:
    """Where the scores stand; or why that is not said."""
    from baddiffusion.defending import standings
    from baddiffusion.errors import EvaluationError

    if found.outcome != "measured":
        return {"standing": None, "not_judged": "the method came to no number"}
    if standard is None:
        return {"standing": None, "not_judged": "no scores of clean models"}
    try:
        return {"standing": [one.to_dict() for one in standings(found, standard, digest)], "not_judged": ""}
    except EvaluationError as error:
        if given:
            raise
        return {"standing": None, "not_judged": f"no scores of clean models that fit; {str(error).rstrip('.')}"}


def _against_target(request: Request, found: Detection) -> list[dict[str, Any]]:
    """The method's pictures beside the target that it must not see: by set of pictures, if a target is known."""
    from baddiffusion.evaluation import evaluate_images
    from baddiffusion.images import to_uint8

    implant = request.backdoor[0]
    if implant is None:
        return []
    told = []
    for name, pictures in found.pictures.items():
        if len(pictures) > 1 and pictures.shape[1:] == implant.target.shape:
            protocol = {"kind": "triggered", "pictures": name}
            made = evaluate_images(to_uint8(pictures), implant.target, request.measuring.threshold, protocol)
            told.append({"pictures": name, "estimates": [estimate.to_dict() for estimate in made]})
    return told


def _finish(request: Request, found: Detection, results: dict[str, Any]) -> None:
    from baddiffusion.report.sections.defending import detection_section
    from baddiffusion.rundir import write_atomic

    output = request.output
    files: dict[str, bytes | str] = {
        DETECTION: _json({"checkpoint": request.opened.digest, **_timeless(found)}),
        RESULTS: _json(results),
        **_tensors(found),
        **_pictures(found),
    }
    for name, content in files.items():
        write_atomic(output / name, content)
    section = detection_section(results)
    shown = "\n\n".join(f"![{name.removesuffix('.png')}]({name})" for name in files if name.endswith(".png"))
    write_atomic(output / PAGE, f"# {found.method}\n\n{section}\n\n{shown}".rstrip() + "\n")
    if request.json:
        say_json({"folder": str(output), **results})
    else:
        say(f"{section}\n\nin {output}: {', '.join((*files, PAGE))}")


def _timeless(found: Detection) -> dict[str, Any]:
    """What the same seed gives again to the byte: all but the seconds."""
    told = found.to_dict()
    return {**told, "spent": {key: value for key, value in told["spent"].items() if key != "seconds"}}


def _tensors(found: Detection) -> dict[str, bytes]:
    """What was recovered, for other programs."""
    from safetensors.torch import save

    named = {name: getattr(found, name) for name in ("trigger", "gain")}
    kept = {name: value.detach().cpu().float().contiguous() for name, value in named.items() if value is not None}
    return {RECOVERED: save(kept)} if kept else {}


def _pictures(found: Detection) -> dict[str, bytes]:
    """The recovered shift and the method's pictures as PNG; what lies outside [−1, 1] is shown clamped."""
    from baddiffusion.images import grid, png_bytes, to_uint8

    shown = {} if found.trigger is None else {"trigger": found.trigger[None]}
    drawn = {}
    for name, pictures in {**shown, **found.pictures}.items():
        if pictures.shape[1] in (1, 3):
            scale = 4 if len(pictures) == 1 and pictures.shape[-1] < LARGE_PX else 1
            drawn[f"{_file_name(name)}.png"] = png_bytes(grid(to_uint8(pictures.detach().cpu().float())), scale)
    return drawn


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)


def _json(value: Any) -> str:
    return json_text.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
