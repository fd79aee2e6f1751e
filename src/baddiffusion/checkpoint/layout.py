"""Where the parts of a diffusers folder lie, and what else lies there."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baddiffusion.checkpoint.files import find_file, read_json, require_folder
from baddiffusion.errors import CheckpointError, UnsafeFile

__all__ = ["CONFIG", "INDEX", "PICKLES", "SCHEDULER", "WEIGHTS", "Layout"]

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARDS = WEIGHTS + ".index.json"
SCHEDULER = "scheduler_config.json"
INDEX = "model_index.json"
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"})
NEVER_LOADED = PICKLES | {
    *(".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".exe", ".ipynb", ".npy", ".npz", ".h5", ".hdf5"),
    *(".msgpack", ".onnx", ".pb", ".tflite", ".zip", ".7z", ".tar", ".gz", ".safetensors"),
}
SUPPORTED = "unconditional UNet2DModel with its scheduler, such as DDPMPipeline"


@dataclass(frozen=True)
class Layout:
    """The parts of one checkpoint folder.

    Args:
        root: the folder, resolved.
        unet: where config and weights lie, relative to it: ``"unet/"`` or ``""`` (flat, as google/ddpm-cifar10-32).
        scheduler: the scheduler's file, relative to it.
    """

    root: Path
    unet: str
    scheduler: str

    @classmethod
    def find(cls, path: Path) -> Layout:
        """Find the parts of a folder.

        Raises:
            CheckpointError: the folder cannot be read, a part is missing, or it is a pipeline of another kind.
        """
        root = require_folder(path)
        if find_file(root, INDEX) is not None:
            _require_unconditional(root / INDEX, read_json(root, INDEX))
        unet = next((part for part in ("unet/", "") if find_file(root, part + CONFIG) is not None), None)
        if unet is None:
            raise CheckpointError(
                f"{path} has neither unet/{CONFIG} nor {CONFIG}; give the diffusers folder of an {SUPPORTED}."
            )
        for part in ("scheduler/", ""):
            if find_file(root, part + SCHEDULER) is not None:
                return cls(root, unet, part + SCHEDULER)
        raise CheckpointError(
            f"{path} has neither scheduler/{SCHEDULER} nor {SCHEDULER}; without it the noise schedule is unknown. "
            f"Download the whole repository."
        )

    def weight_files(self) -> tuple[Path, ...]:
        """The safetensors files.

        Raises:
            UnsafeFile: there are only pickles.
            CheckpointError: there are no weights, or the index of the shards is wrong.
        """
        whole = find_file(self.root, self.unet + WEIGHTS)
        if whole is not None:
            return (whole,)
        if find_file(self.root, self.unet + SHARDS) is not None:
            return self._shards()
        pickles = self.pickles()
        if pickles:
            raise UnsafeFile(
                f"{pickles[0]} is a pickle: loading it could execute code, so it was not opened, and there are no "
                f"safetensors beside it. Run: baddiffusion convert {self.root} NEW_FOLDER"
            )
        others = sorted(file.name for file in (self.root / self.unet).glob("*.safetensors"))
        found = f" (there is {', '.join(others[:5])})" if others else ""
        raise CheckpointError(
            f"{self.root / self.unet / WEIGHTS} is missing{found}; put the weights there under that name."
        )

    def pickles(self) -> list[Path]:
        """The pickled weights that lie where the weights belong, by name."""
        return sorted(file for file in (self.root / self.unet).iterdir() if file.suffix.lower() in PICKLES)

    def not_loaded(self, loaded: Collection[Path]) -> tuple[str, ...]:
        """Weights, code and archives in the folder that were not loaded, as relative paths."""
        found = []
        for folder, _, names in os.walk(self.root):
            files = (Path(folder, name) for name in names)
            found += [file for file in files if file.suffix.lower() in NEVER_LOADED and file not in loaded]
        return tuple(sorted(file.relative_to(self.root).as_posix() for file in found))

    def _shards(self) -> tuple[Path, ...]:
        index = self.root / self.unet / SHARDS
        names = read_json(self.root, self.unet + SHARDS).get("weight_map")
        values = list(names.values()) if isinstance(names, dict) else []
        if not values or not all(isinstance(v, str) and re.fullmatch(r"[\w.-]+\.safetensors", v) for v in values):
            raise CheckpointError(
                f"{index} has no usable weight_map; it must map weights to files beside it. Download it again."
            )
        files = []
        for name in sorted(set(values)):
            file = find_file(self.root, self.unet + name)
            if file is None:
                raise CheckpointError(f"{self.root / self.unet / name} is missing, but {index} names it; download it.")
            files.append(file)
        return tuple(files)


def _require_unconditional(path: Path, index: dict[str, Any]) -> None:
    parts = {name: part for name, part in index.items() if not name.startswith("_")}
    unet = parts.get("unet")
    if set(parts) <= {"unet", "scheduler"} and isinstance(unet, list) and unet[-1:] == ["UNet2DModel"]:
        return
    raise CheckpointError(
        f"{path} describes a {index.get('_class_name')!r} of {', '.join(sorted(parts)) or 'nothing'}; "
        f"supported is an {SUPPORTED}."
    )
