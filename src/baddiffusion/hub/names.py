"""What a model name stands for: a folder, a packaged model, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from baddiffusion.errors import CheckpointError, UnsafeFile, nearest
from baddiffusion.hub.client import NAME, failures, first_line, is_offline, quiet

__all__ = ["HUB_NAME", "PARTS", "is_part", "packaged", "require_safetensors", "resolve"]

MODELS = Path(__file__).resolve().parent.parent / "assets" / "models"
HUB_NAME = re.compile(rf"(?P<repository>{NAME})(?:@(?P<revision>[\w./-]+))?")
PARTS = (
    *("model_index.json", "card.json", "args.json", "README.md", "config.json", "unet/config.json"),
    *("scheduler_config.json", "scheduler/scheduler_config.json"),
    *("diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"),
    *("diffusion_pytorch_model.safetensors.index.json", "unet/diffusion_pytorch_model.safetensors.index.json"),
    *("diffusion_pytorch_model-*.safetensors", "unet/diffusion_pytorch_model-*.safetensors"),
)
"""All that is ever downloaded: JSON, safetensors and the README; no pickle, no code."""


def is_part(name: str) -> bool:
    """Whether a file of a repository is one of the `PARTS`; a name that leads elsewhere is not.

    Example:
        >>> is_part("unet/config.json"), is_part("unet/diffusion_pytorch_model.bin"), is_part("unet/../config.json")
        (True, False, False)
    """
    plain = re.fullmatch(r"(unet/|scheduler/)?[\w.-]+", name)
    return plain is not None and any(fnmatchcase(name, pattern) for pattern in PARTS)


def packaged() -> list[str]:
    """Names of the models that the package ships, as ``packaged:<name>`` takes them."""
    if not MODELS.is_dir():
        return []
    return sorted(folder.name for folder in MODELS.iterdir() if folder.is_dir())


def resolve(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Turn a name into a folder on this machine, downloading it if need be.

    Args:
        name_or_path: a folder (tried first); ``packaged:<name>``; or ``owner/name`` or ``owner/name@revision`` of the
            Hugging Face hub. ``HF_HUB_OFFLINE`` is honored: then only the local cache is asked.
        revision: branch, tag or commit on the hub; a commit pins the bytes. Overrides ``@revision``.

    Returns:
        The folder. What is in it is for `Checkpoint.open` to find out.

    Raises:
        CheckpointError: no such folder, packaged model or repository, or the hub cannot be reached.
        UnsafeFile: the repository has no safetensors.
    """
    name = str(name_or_path)
    if name.startswith("packaged:"):
        return _packaged(name.removeprefix("packaged:"))
    path = Path(name).expanduser()
    if path.exists():
        return path
    match = HUB_NAME.fullmatch(name)
    if match is None or isinstance(name_or_path, Path):
        raise CheckpointError(
            f"{name!r} does not exist; give a checkpoint folder, a name on the hub such as google/ddpm-cifar10-32, "
            f"or a packaged model ({_known()})."
        )
    return _download(match["repository"], revision or match["revision"])


def _packaged(name: str) -> Path:
    if name not in packaged():
        raise CheckpointError(f"packaged:{name} is not there. {nearest(name, packaged())}Packaged are: {_known()}.")
    return MODELS / name


def _known() -> str:
    return ", ".join(f"packaged:{name}" for name in packaged()) or "none in this installation"


def require_safetensors(repository: str, names: Iterable[str]) -> None:
    """Refuse a repository without a single weights file that may be opened.

    Raises:
        UnsafeFile: there is none.
    """
    if not any(name.endswith(".safetensors") for name in names):
        raise UnsafeFile(
            f"{repository} has no safetensors where a U-Net's lie, and pickles are not downloaded. If it has a .bin, "
            f"download the repository yourself and run: baddiffusion convert FOLDER NEW_FOLDER"
        )


def _download(repository: str, revision: str | None) -> Path:
    import huggingface_hub

    quiet()
    offline = is_offline()
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(PARTS), local_files_only=offline
        )
    except failures() as error:
        at = f" at revision {revision}" if revision else ""
        if offline:
            raise CheckpointError(
                f"{repository}{at} is no folder here and not in the local cache, and HF_HUB_OFFLINE forbids "
                f"to download it. Unset HF_HUB_OFFLINE, or give a folder."
            ) from None
        raise CheckpointError(
            f"{repository}{at} is no folder here and could not be downloaded ({type(error).__name__}: "
            f"{first_line(error)}). Check the name, the revision and the network, or give a folder."
        ) from None
    require_safetensors(repository, (file.name for file in Path(folder).glob("**/*.safetensors")))
    return Path(folder)
