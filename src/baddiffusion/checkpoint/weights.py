"""Weights in safetensors: the header read by us, the tensors by the library, nothing ever unpickled."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from baddiffusion.checkpoint.files import parse_object
from baddiffusion.errors import CheckpointError

__all__ = ["MAX_PARAMETERS", "StoredWeights", "canonical_name", "content_digest", "read_header"]

MAX_PARAMETERS = 1_000_000_000
"""Ten times the largest network that the paper uses; a larger one is refused before anything is allocated."""

HEADER_LIMIT_BYTES = 1 << 24
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def canonical_name(name: str) -> str:
    """Turn the attention names of old diffusers versions into today's, as diffusers does when it loads them.

    Example:
        >>> canonical_name("mid_block.attentions.0.proj_attn.weight")
        'mid_block.attentions.0.to_out.0.weight'
        >>> canonical_name("conv_in.weight")
        'conv_in.weight'
    """
    match = OLD_ATTENTION.fullmatch(name)
    return f"{match[1]}.{NEW_ATTENTION[match[2]]}.{match[3]}" if match else name


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read name → (dtype, shape) of a safetensors file, and check them against the size of the file.

    Raises:
        CheckpointError: the file is empty, truncated, not safetensors, or holds something other than floats.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            data = file.read(length) if length <= HEADER_LIMIT_BYTES else b""
    except OSError as error:
        raise CheckpointError(f"{path} may not be read ({error.strerror}); check its permissions.") from None
    if size < 8:
        raise CheckpointError(f"{path} has {size} bytes: it is empty or truncated. Download it again.")
    if length > HEADER_LIMIT_BYTES:
        raise CheckpointError(
            f"{path} is not a safetensors file: its header would be {length} bytes long, at most {HEADER_LIMIT_BYTES} "
            f"are read. Replace it by the real file."
        )
    if 8 + length > size:
        raise CheckpointError(
            f"{path} is truncated: its header needs {8 + length} bytes, the file has {size}. Download it again."
        )
    header = parse_object(data, f"the header of {path}")
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, value) for name, value in header.items()}
    needed = 8 + length + sum(math.prod(shape) * DTYPE_BYTES[dtype] for dtype, shape in entries.values())
    if needed != size:
        raise CheckpointError(
            f"{path} is {'truncated' if size < needed else 'not what its header says'}: its header describes {needed} "
            f"bytes, the file has {size}. Download it again."
        )
    return entries


def _entry(path: Path, name: str, value: Any) -> tuple[str, tuple[int, ...]]:
    dtype = value.get("dtype") if isinstance(value, dict) else None
    shape = value.get("shape") if isinstance(value, dict) else None
    if dtype not in DTYPE_BYTES:
        raise CheckpointError(f"{path}: {name} has dtype {dtype!r}; weights are one of {', '.join(DTYPE_BYTES)}.")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise CheckpointError(f"{path}: {name} has shape {shape!r}; it must be a list of sizes. Download it again.")
    return dtype, tuple(shape)


@dataclass(frozen=True)
class StoredWeights:
    """The weight files of one network, of which only the headers were read.

    Args:
        files: one safetensors file, or the shards of one.
        shapes: canonical name → shape.
    """

    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)

    @classmethod
    def scan(cls, files: Iterable[Path]) -> StoredWeights:
        """Read the headers.

        Raises:
            CheckpointError: a header is damaged, a name comes twice, or there are too many parameters.
        """
        files, shapes = tuple(files), {}
        for file in files:
            for name, (_, shape) in read_header(file).items():
                if canonical_name(name) in shapes:
                    raise CheckpointError(f"{file}: {name} comes twice among the weights; restore the original files.")
                shapes[canonical_name(name)] = shape
        stored = cls(files, shapes)
        if stored.parameter_count > MAX_PARAMETERS:
            raise CheckpointError(
                f"{files[0]} holds {stored.parameter_count} parameters; at most {MAX_PARAMETERS} are loaded. "
                f"This is no network of the kind that baddiffusion handles."
            )
        return stored

    @property
    def parameter_count(self) -> int:
        """How many numbers the network has."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (canonical name, tensor) in the order of the names, one at a time.

        Raises:
            CheckpointError: the library refuses a file.
        """
        with ExitStack() as stack:
            where: dict[str, tuple[Any, str]] = {}
            try:
                for file in self.files:
                    opened = stack.enter_context(safe_open(file, framework="pt"))
                    where |= {canonical_name(name): (opened, name) for name in opened.keys()}  # noqa: SIM118
                for name in sorted(where):
                    opened, stored_name = where[name]
                    yield name, opened.get_tensor(stored_name)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{self.files[0]} is damaged ({error}); download it again.") from None


def content_digest(tensors: Iterable[tuple[str, Tensor]], *configs: bytes) -> str:
    """sha256 over names, dtypes, shapes and bytes of the tensors, and over the configurations."""
    hasher = hashlib.sha256()
    for name, tensor in tensors:
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for config in configs:
        hasher.update(b"\n" + config)
    return hasher.hexdigest()
