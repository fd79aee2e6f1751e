"""Verbs about files and the machine: convert, doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from baddiffusion.cli.app import LOOK, OTHER, Json, app
from baddiffusion.cli.printing import say, say_json, table

__all__ = ["convert", "doctor"]


@app.command(group=OTHER)
def convert(source: Path, destination: Path, /, *, json: Json = False) -> None:
    """Turn pickled weights (.bin) into safetensors.

    The pickle is never run: it is disassembled first, and one that would call anything harmful is refused.

    Example: `baddiffusion convert downloaded-model model-safetensors`

    Args:
        source: A diffusers folder, flat or with unet/.
        destination: A folder that does not exist yet.
        json: Write the new folder and its digest as JSON.
    """
    from baddiffusion.hub import convert as convert_folder

    checkpoint = convert_folder(source, destination)
    if json:
        say_json({"checkpoint": str(checkpoint.path), "digest": checkpoint.digest})
    else:
        say(f"{checkpoint.path}  digest {checkpoint.digest}")


@app.command(group=LOOK, sort_key=3)
def doctor(*, json: Json = False) -> int:
    """Say what works on this machine, and why something does not.

    Exits with 0 unless something that every verb needs is broken; then with 2.

    Example: `baddiffusion doctor`

    Args:
        json: Write the findings as JSON.
    """
    from baddiffusion.doctor import examine, is_broken

    findings = examine()
    if json:
        say_json([asdict(finding) for finding in findings])
    else:
        say(table([(finding.status, finding.subject, finding.text) for finding in findings]))
    return 2 if is_broken(findings) else 0
