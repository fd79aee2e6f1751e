"""The child process that opens a pickle: it imports nothing of the package, has limits, and answers in one JSON line.

Usage: ``pickle_child.py scan FILE`` or ``pickle_child.py load FILE OUTPUT``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

MEMORY_BYTES = 4 << 30
MAX_PARAMETERS = 1_000_000_000
NESTED_UNDER = ("state_dict", "model")


def limit(seconds: int, file_bytes: int) -> None:
    """Bound memory, processor time and written bytes, where the system can."""
    try:
        import resource
    except ImportError:  # not on Windows; the parent's time limit remains
        return
    memory = MEMORY_BYTES + 4 * file_bytes
    for kind, bound in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 2 * file_bytes + (1 << 20)),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (bound, bound))


def scan(path: str) -> dict[str, Any]:
    """Disassemble the pickle without running it, and name what it would import that can do harm."""
    import logging
    import zipfile

    from picklescan.scanner import SafetyLevel, scan_file_path

    logging.disable(logging.CRITICAL)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            compressed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if compressed:
            return {"error": f"{compressed[0]} inside is compressed, which torch.save never does"}
    result = scan_file_path(path)
    found = sorted(f"{g.module}.{g.name}" for g in result.globals if g.safety is SafetyLevel.Dangerous)
    if result.scan_err and not found:
        return {"error": "its pickle cannot be disassembled"}
    return {"dangerous": found}


def load(path: str, output: str) -> dict[str, Any]:
    """Load with torch's restricted unpickler and write the tensors as safetensors."""
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        return {"refused": str(error).splitlines()[0]}
    for key in NESTED_UNDER:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        return {"error": f"it holds a {type(content).__name__}, not a dictionary of weights"}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            return {"error": f"its entry {name!r} is a {type(value).__name__}, not a named tensor"}
        if not value.is_floating_point() or value.layout is not torch.strided:
            return {"error": f"its entry {name!r} is a {value.dtype} tensor, not an ordinary tensor of floats"}
    count = sum(value.numel() for value in content.values())
    if count > MAX_PARAMETERS:
        return {"error": f"it holds {count} parameters, more than {MAX_PARAMETERS}"}
    # Cloned, because two names may share one storage, which safetensors does not write.
    save_file(
        {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in content.items()}, output
    )
    return {"names": len(content)}


def main(arguments: list[str]) -> None:
    """Do what the arguments say and print the answer."""
    verb, seconds, path, *output = arguments
    limit(int(seconds), os.path.getsize(path))
    try:
        answer = scan(path) if verb == "scan" else load(path, *output)
    except Exception as error:  # whatever a stranger's file sets off is an answer, not a traceback
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
