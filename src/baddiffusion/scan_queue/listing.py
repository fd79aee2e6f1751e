"""Which models a queue is about: one a line, or the folders of a folder."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baddiffusion.errors import RecipeError

__all__ = ["Entry", "place_of", "plain", "read_folder", "read_list"]

HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
PACKAGED = "packaged:"
MODELS = Path(__file__).resolve().parent.parent / "assets" / "models"
NETWORKS = ("model_index.json", "config.json", "unet")
MOST_TOLD = 5


@dataclass(frozen=True)
class Entry:
    """One model of a queue.

    Args:
        name: what it is called in records and pages; it does not tell where on this machine it lies.
        place: its folder; None for a name on the hub.
        written: what stood in the list, which tells models of one name apart.
    """

    name: str
    place: Path | None
    written: str

    @property
    def key(self) -> str:
        """Safe as a file's name, and unique: what it is called, and a hash of what stood in the list."""
        return f"{plain(self.name)}-{hashlib.sha256(self.written.encode()).hexdigest()[:12]}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, for a worker elsewhere."""
        return {
            "name": self.name,
            "place": None if self.place is None else str(self.place),
            "written": self.written,
        }

    @classmethod
    def of(cls, table: dict[str, Any]) -> Entry:
        """What `to_dict` made."""
        place = table["place"]
        return cls(table["name"], None if place is None else Path(place), table["written"])


def plain(name: str) -> str:
    """A file's name out of a model's.

    Example:
        >>> plain("owner/name@main"), plain("packaged:clean"), plain("..")
        ('owner-name-main', 'packaged-clean', 'model')
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:60].strip("-._") or "model"


def read_list(text: str, folder: Path, source: str) -> list[Entry]:
    """Read a list: a folder, a name on the hub or ``packaged:NAME`` a line; ``#`` begins a comment.

    Args:
        text: of the list.
        folder: what relative paths are relative to.
        source: what the list is called, for messages.

    Returns:
        The models in their order; a line that stands twice is one model.

    Raises:
        RecipeError: lines are none of these, or there is none.

    Example:
        >>> [entry.name for entry in read_list("google/ddpm-cifar10-32 # flat\\npackaged:clean", Path("."), "list")]
        ['google/ddpm-cifar10-32', 'packaged:clean']
    """
    found: dict[str, Path | None] = {}
    wrong: list[str] = []
    for number, line in _lines(text):
        if line in found:
            continue
        try:
            found[line] = place_of(line, folder)
        except RecipeError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        more = f" And {len(wrong) - MOST_TOLD} more lines." if len(wrong) > MOST_TOLD else ""
        raise RecipeError(f"{source} cannot be used; nothing was begun. {' '.join(wrong[:MOST_TOLD])}{more}")
    if not found:
        raise RecipeError(f"{source} names no model; write one a line: a folder, owner/name[@revision], packaged:NAME.")
    return _named(found)


def read_folder(folder: Path, without: Path) -> list[Entry]:
    """The checkpoints in a folder of them: its folders, and of a run directory the ``checkpoint`` in it.

    Args:
        folder: the folder.
        without: the folder of the results, which is none.

    Raises:
        RecipeError: there is none.
    """
    found: dict[str, Path | None] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir() or path.resolve() == without.resolve():
            continue
        is_run = (path / "checkpoint").is_dir() and not any((path / name).exists() for name in NETWORKS)
        name = f"{path.name}/checkpoint" if is_run else path.name
        found[name] = folder / name
    if not found:
        raise RecipeError(f"{folder} holds no folder; give a list of models, or the folder that holds the checkpoints.")
    return _named(found)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").splitlines(), start=1):
        said = re.sub(r"(^|\s)#.*", "", line).strip()
        if said:
            yield number, said


def place_of(line: str, folder: Path) -> Path | None:
    """Where a model lies, by what it is called.

    Args:
        line: a folder, a name on the hub, or ``packaged:NAME``.
        folder: what a relative path is relative to.

    Returns:
        Its folder; None for a name on the hub.

    Raises:
        RecipeError: it is none of these.
    """
    if not line.isprintable():
        raise RecipeError(f"{line!r} holds characters that do not show; write the name of a model.")
    if line.startswith(PACKAGED):
        path = MODELS / line.removeprefix(PACKAGED)
        if path.parent != MODELS or not path.is_dir():
            known = ", ".join(PACKAGED + name for name in sorted(p.name for p in MODELS.iterdir() if p.is_dir()))
            raise RecipeError(f"{line!r} is not packaged; there are {known}.")
        return path
    path = folder / Path(line).expanduser()
    if path.is_dir():
        return path
    if path.is_symlink() or path.exists():
        raise RecipeError(f"{line!r} is no folder; give the folder of a checkpoint.")
    if HUB.fullmatch(line):
        return None
    raise RecipeError(f"{line!r} does not exist, and is no name on the hub (owner/name or owner/name@revision).")


def _named(found: dict[str, Path | None]) -> list[Entry]:
    """Give every model a name without the place on this machine; of those who would share one, more of the path."""
    parts, depth = {line: _parts(line) for line in found}, dict.fromkeys(found, 1)
    while True:
        names = {line: "/".join(parts[line][-depth[line] :]) for line in found}
        counted = Counter(names.values())
        longer = [line for line in found if counted[names[line]] > 1 and depth[line] < len(parts[line])]
        if not longer:
            return [Entry(names[line], place, line) for line, place in found.items()]
        depth |= {line: depth[line] + 1 for line in longer}


def _parts(line: str) -> list[str]:
    """A path that tells where it lies, in parts; anything else whole."""
    if line.startswith(("/", "~", "..")):
        return [part for part in Path(line).parts if part not in ("/", "..", "~")] or ["model"]
    return [line]
