"""Pushing a checkpoint to the hub: with its card, without anything that is not part of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.checkpoint.files import find_file
from baddiffusion.checkpoint.layout import PICKLES
from baddiffusion.errors import CheckpointError, UnsafeFile
from baddiffusion.hub.client import NAME, failures, first_line, is_offline, quiet
from baddiffusion.hub.names import is_part
from baddiffusion.hub.pulled import RECORD

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Parcel", "pack", "send"]

README, CARD, PAGE = "README.md", "card.json", "report.html"
BESIDE = ("recipe.toml", "metrics.json", "training.json")
"""What a published run may show of itself, beside the checkpoint."""

PICTURE = re.compile(r"[A-Za-z0-9][\w-]*\.png")
PNG = b"\x89PNG\r\n\x1a\n"
WARNING = "**BACKDOORED**"
TAGS = ("baddiffusion", "backdoored", "security-research")
"""By which the hub's search finds the backdoored models, and its filters can leave them out."""


@dataclass(frozen=True)
class Parcel:
    """What a push uploads.

    Args:
        repository: ``owner/name``.
        branch: of the repository.
        headline: the card's first line.
        contents: path in the repository → the file on this machine, or bytes.
        tags_added: tags of a backdoored model that the README lacked; they are in what is uploaded.
    """

    repository: str
    branch: str
    headline: str
    contents: Mapping[str, Path | bytes]
    tags_added: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Path → bytes."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.contents.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "repository": self.repository,
            "branch": self.branch,
            "headline": self.headline,
            "files": [{"name": name, "bytes": size} for name, size in self.sizes.items()],
            "tags_added": list(self.tags_added),
        }


def pack(source: Path, repository: str, branch: str = "main", report: bool = False) -> Parcel:
    """Collect what a push would upload, and refuse what must not be published; nobody is asked for that.

    A backdoored model goes out only with the warning that a reader sees first and with the tags that the hub's search
    sees; nothing goes out that could run code, or that is not part of a checkpoint.

    Args:
        source: the folder of a checkpoint, or of a run.
        repository: ``owner/name``.
        branch: of the repository.
        report: take the run's ``report.html`` along.

    Returns:
        The parcel.

    Raises:
        UnsafeFile: the folder holds a pickle.
        CheckpointError: it is no checkpoint, has no card, its README does not say that it is backdoored, or something
            lies there that belongs to no checkpoint.
    """
    if re.fullmatch(NAME, repository) is None:
        raise CheckpointError(f"{repository!r} is no repository of the hub; write owner/name.")
    if re.fullmatch(r"\w[\w./-]*", branch) is None:
        raise CheckpointError(f"--branch is {branch!r}; write the name of a branch, such as main.")
    is_run = (source / "run.json").is_file()
    folder = source / "checkpoint" if is_run else source
    if is_run and not folder.is_dir():
        raise CheckpointError(f"{source} is a run without a checkpoint; let it finish: baddiffusion run RECIPE.")
    opened = Checkpoint.open(folder)
    contents = dict(_contents(folder.resolve(), opened))
    if opened.card is None or not {CARD, README} <= set(contents):
        raise CheckpointError(
            f"{folder} has no card ({CARD} and {README}): whoever downloads it must learn what it is. Push what "
            f"baddiffusion trained, or write both with Checkpoint.write(..., card=Card(...))."
        )
    tags: tuple[str, ...] = ()
    if opened.card.backdoored:
        contents[README], tags = _warned(folder.resolve() / README)
    if report:
        contents[PAGE] = _page(source, is_run)
    return Parcel(repository, branch, opened.card.headline, dict(sorted(contents.items())), tags)


def send(parcel: Parcel, private: bool = False) -> str:
    """Upload a parcel as one commit, creating repository and branch if need be.

    Args:
        parcel: from `pack`.
        private: the repository must be private; a new one is made so.

    Returns:
        The commit's address.

    Raises:
        CheckpointError: no network or no token; the repository is public though a private one was asked for, or holds
            files of something else; or the hub refuses.
    """
    import huggingface_hub

    quiet()
    if is_offline():
        raise CheckpointError("HF_HUB_OFFLINE forbids to upload; unset it, or look with --dry-run.")
    if huggingface_hub.get_token() is None:
        raise CheckpointError(
            "no token of the hub was found; run hf auth login, or set HF_TOKEN to a token that may write. --dry-run "
            "needs none."
        )
    try:
        return _commit(huggingface_hub.HfApi(), parcel, private)
    except failures() as error:
        raise CheckpointError(
            f"{parcel.repository} could not be pushed to ({type(error).__name__}: {first_line(error)}). Check the "
            f"network, and that the token may write there."
        ) from None


def _commit(api: HfApi, parcel: Parcel, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd

    repository, branch = parcel.repository, parcel.branch
    api.create_repo(repository, private=True if private else None, exist_ok=True)
    if private and not api.model_info(repository).private:
        raise CheckpointError(
            f"{repository} exists and is public, though --private was given; nothing was uploaded. Push to another "
            f"repository, or make that one private in its settings."
        )
    if branch != "main":
        api.create_branch(repository, branch=branch, exist_ok=True)
    info = api.model_info(repository, revision=branch)
    others = sorted({file.rfilename for file in info.siblings or []} - {".gitattributes", *parcel.contents})
    if others:
        raise CheckpointError(
            f"{repository} holds {', '.join(others[:3])} on {branch}, which this push would not replace: what lies "
            f"there would not belong together. Push to another repository or branch, or delete these there."
        )
    uploads = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in parcel.contents.items()
    ]
    done = api.create_commit(
        repository, uploads, commit_message=f"Upload: {parcel.headline}", revision=branch, parent_commit=info.sha
    )
    return str(done.commit_url)


def _contents(root: Path, opened: Checkpoint) -> list[tuple[str, Path | bytes]]:
    """Every file of the folder, if each may be published."""
    entries = [Path(parent, name) for parent, folders, names in os.walk(root) for name in names]
    links = [Path(parent, name) for parent, folders, _ in os.walk(root) for name in folders]
    found = sorted(path.relative_to(root).as_posix() for path in (*entries, *filter(Path.is_symlink, links)))
    if pickles := [name for name in found if Path(name).suffix.lower() in PICKLES]:
        raise UnsafeFile(
            f"{root / pickles[0]} is a pickle, which could run code where it is loaded; nothing was uploaded. Delete "
            f"it, or push what baddiffusion convert makes of it."
        )
    unread = set(opened.not_loaded)
    foreign = [name for name in found if name in unread or not (is_part(name) or _may_lie_beside(name))]
    if foreign:
        raise CheckpointError(
            f"{root / foreign[0]} is not part of a checkpoint; nothing was uploaded. Only its JSON, safetensors and "
            f"{README}, {', '.join(BESIDE)} and the card's pictures are. Move it away."
        )
    kept: list[tuple[str, Path | bytes]] = []
    for name in found:
        path = find_file(root, name)
        if path is not None and name != RECORD:
            _require_picture(path)
            kept.append((name, path))
    return kept


def _may_lie_beside(name: str) -> bool:
    """Recipe, numbers and pictures go along; the record of a pull stays here, where it was made."""
    return name in (*BESIDE, RECORD) or PICTURE.fullmatch(name) is not None


def _require_picture(path: Path) -> None:
    if path.suffix != ".png":
        return
    with open(path, "rb") as file:
        if file.read(len(PNG)) != PNG:
            raise CheckpointError(f"{path} is no PNG picture, whatever its name says; nothing was uploaded.")


def _page(source: Path, is_run: bool) -> Path:
    page = source / PAGE
    if not is_run:
        raise CheckpointError(f"--report takes the page of a run, and {source} is none; leave it out, or give the run.")
    if not page.is_file() or page.is_symlink():
        raise CheckpointError(f"{page} is not there; write it first: baddiffusion report {source}")
    return page


def _warned(readme: Path) -> tuple[bytes, tuple[str, ...]]:
    """The README of a backdoored model, with the tags that it lacks."""
    from huggingface_hub import ModelCard

    try:
        text = readme.read_text(encoding="utf-8")
        card = ModelCard(text)
    except Exception as error:  # the front matter is YAML, and its errors are those of a library that is not ours
        raise CheckpointError(
            f"{readme} cannot be read as a model card ({first_line(error)}). Restore the one that baddiffusion wrote."
        ) from None
    first = next((line.strip() for line in card.text.splitlines() if line.strip()), "")
    if not first.startswith(WARNING):
        raise CheckpointError(
            f"{readme} is the card of a backdoored model, but its first line is {first[:80]!r}; it must begin with "
            f"{WARNING}. Restore the README that baddiffusion wrote."
        )
    had = list(card.data.get("tags") or [])
    added = tuple(tag for tag in TAGS if tag not in had)
    if not added:
        return text.encode(), ()
    card.data["tags"] = [*had, *added]
    return str(card).encode(), added
