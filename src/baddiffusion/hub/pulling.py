"""Pulling a model from the hub into a folder: one commit, checked bytes, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from baddiffusion.errors import CheckpointError
from baddiffusion.hub.client import failures, first_line, is_offline, quiet
from baddiffusion.hub.names import HUB_NAME, PARTS, is_part, require_safetensors
from baddiffusion.hub.pulled import COMMIT, RECORD, SHA256, PulledRecord, file_sha256

__all__ = ["PullPlan", "pull"]


@dataclass(frozen=True)
class PullPlan:
    """What a pull would do: the commit that the name stands for now, and the files of it that are taken.

    Args:
        repository: ``owner/name``.
        commit: the commit.
        path: the folder.
        sizes: path in the repository → bytes, where the hub says; only JSON, safetensors and README.md.
        promised: path → sha256, where the hub says, which it does of large files.
        demanded: path → sha256, as a lock or ``--sha256`` names them.
        present: the record of the same commit that lies in the folder already; then nothing is downloaded.
    """

    repository: str
    commit: str
    path: Path
    sizes: Mapping[str, int | None]
    promised: Mapping[str, str]
    demanded: Mapping[str, str]
    present: PulledRecord | None = None

    @classmethod
    def make(
        cls, name: str, folder: Path | None = None, sha256: str | None = None, lock: Path | None = None
    ) -> PullPlan:
        """Ask the hub which commit a name stands for; for a commit that the folder holds already, nobody is asked.

        Args:
            name: ``owner/name`` or ``owner/name@revision``: a branch, a tag or a commit.
            folder: where it goes; left out, the name without the owner.
            sha256: what the weights file must hash to.
            lock: the ``pulled.json`` of an earlier pull, whose commit and hashes are demanded again.

        Returns:
            The plan.

        Raises:
            CheckpointError: no such name, revision or lock; the hub cannot be reached, or says of a file that it has
                another hash; or the folder holds something else, be it another commit.
            UnsafeFile: the repository has no safetensors.
        """
        match = HUB_NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{name!r} is not a name on the hub; write owner/name or owner/name@revision, for example "
                f"google/ddpm-cifar10-32."
            )
        repository, revision = match["repository"], match["revision"]
        if sha256 is not None and lock is not None:
            raise CheckpointError("--sha256 and --lock both name the hash of the weights; give one of the two.")
        locked = _locked(lock, repository, revision)
        revision = locked.commit if locked is not None else revision
        path = folder if folder is not None else Path(repository.partition("/")[2])
        record = _record_in(path, repository)
        if record is None:
            commit, sizes, promised = _offer(repository, revision)
        else:
            if record.commit != revision:
                _require_commit(record, path, revision or "main", _offer(repository, revision)[0])
            commit, promised = record.commit, record.files
            sizes = {name: _size(path / name) for name in record.files}
        require_safetensors(repository, sizes)
        if locked is not None:
            _require_same_files(lock, locked, sizes)
        demanded = locked.files if locked is not None else _of_the_weights(f"{repository}@{commit}", sizes, sha256)
        plan = cls(repository, commit, path, sizes, promised, demanded, record)
        plan.compare(promised, demanded, "Nothing was downloaded.")
        return plan

    def compare(self, found: Mapping[str, str], wanted: Mapping[str, str], outcome: str) -> None:
        """Refuse other hashes than wanted, and say what became of the files.

        Raises:
            CheckpointError: a hash differs; the message names both.
        """
        for name, expected in wanted.items():
            if found.get(name, expected) != expected:
                raise CheckpointError(
                    f"{name} of {self.repository}@{self.commit} has sha256 {found[name]}, but it must be {expected}. "
                    f"{outcome} Do not use these bytes unless you know why they differ."
                )

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "name": self.repository,
            "commit": self.commit,
            "folder": str(self.path),
            "present": self.present is not None,
            "files": [{"name": name, "bytes": size} for name, size in self.sizes.items()],
        }


def pull(plan: PullPlan) -> PulledRecord:
    """Do what the plan says, or verify what an earlier pull left.

    The files are hashed as they lie on the disk, and only a folder that is complete and right gets its name.

    Args:
        plan: from `PullPlan.make`.

    Returns:
        The record, as it lies in the folder.

    Raises:
        CheckpointError: other bytes than demanded (both hashes are named, nothing is left behind), files that were
            changed since an earlier pull, the hub does not answer, or the disk refuses.
    """
    if plan.present is not None:
        plan.present.check(plan.path)
        return plan.present
    try:
        plan.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{plan.path.name}.partial-", dir=plan.path.parent) as scratch:
            whole = Path(scratch) / "whole"
            files = {name: _fetch(plan, name, Path(scratch) / "download", whole / name) for name in plan.sizes}
            plan.compare(files, {**plan.promised, **plan.demanded}, "Nothing was kept.")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            record = PulledRecord(name=plan.repository, commit=plan.commit, pulled_at=now, files=files)
            (whole / RECORD).write_text(record.to_json())
            os.rename(whole, plan.path)
    except OSError as error:
        raise CheckpointError(
            f"{plan.path} could not be written ({error.strerror}); make room, or choose another folder."
        ) from None
    return record


def _locked(lock: Path | None, repository: str, revision: str | None) -> PulledRecord | None:
    if lock is None:
        return None
    if not lock.is_file():
        raise CheckpointError(f"{lock} is no file; give the {RECORD} of an earlier pull.")
    locked = PulledRecord.read(lock)
    if locked.name != repository or revision not in (None, locked.commit):
        raise CheckpointError(
            f"{lock} is about {locked.name}@{locked.commit}, not {repository}{f'@{revision}' if revision else ''}; "
            f"give the name that it locks, without a revision."
        )
    return locked


def _require_same_files(lock: Path | None, locked: PulledRecord, names: Iterable[str]) -> None:
    differing = sorted(set(locked.files) ^ set(names))
    if differing:
        raise CheckpointError(
            f"{lock} and {locked.name}@{locked.commit} do not name the same files ({', '.join(differing[:3])}); "
            f"leave --lock out, or find the right one."
        )


def _record_in(path: Path, repository: str) -> PulledRecord | None:
    """The record of an earlier pull; None if there is room for a new one."""
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return None
    if not (path / RECORD).is_file():
        raise CheckpointError(
            f"{path} exists and holds no {RECORD}: it is something else, and nothing is overwritten. Choose another "
            f"folder."
        )
    record = PulledRecord.read(path / RECORD)
    if record.name != repository:
        raise CheckpointError(f"{path} holds {record.name}, not {repository}; choose another folder.")
    return record


def _require_commit(record: PulledRecord, path: Path, revision: str, commit: str) -> None:
    if record.commit != commit:
        raise CheckpointError(
            f"{path} holds commit {record.commit} of {record.name}, but {revision} is {commit}; nothing is "
            f"overwritten. Pull into another folder, or name {record.name}@{record.commit}."
        )


def _offer(repository: str, revision: str | None) -> tuple[str, dict[str, int | None], dict[str, str]]:
    """The commit that a revision names, its parts with their sizes, and the hashes that are known."""
    return _cached(repository, revision) if is_offline() else _asked(repository, revision)


def _asked(repository: str, revision: str | None) -> tuple[str, dict[str, int | None], dict[str, str]]:
    """What the hub says."""
    import huggingface_hub

    quiet()
    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
    except failures() as error:
        raise _unreachable(f"{repository}@{revision}" if revision else repository, error) from None
    if info.sha is None or re.fullmatch(COMMIT, info.sha) is None:
        raise CheckpointError(f"the hub names no commit of {repository} ({info.sha!r}); try again later.")
    parts = sorted((file for file in info.siblings or [] if is_part(file.rfilename)), key=lambda file: file.rfilename)
    hashes = {file.rfilename: file.lfs.sha256 for file in parts if file.lfs is not None}
    return info.sha, {file.rfilename: file.size for file in parts}, hashes


def _cached(repository: str, revision: str | None) -> tuple[str, dict[str, int | None], dict[str, str]]:
    """What the library's cache on this machine holds."""
    import huggingface_hub

    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=list(PARTS), local_files_only=True
            )
        )
    except failures():
        at = f"@{revision}" if revision else ""
        raise CheckpointError(
            f"{repository}{at} is not in the local cache, and HF_HUB_OFFLINE forbids to download it. Unset "
            f"HF_HUB_OFFLINE, or name a commit that was pulled."
        ) from None
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return folder.name, {name: _size(folder / name) for name in names if is_part(name)}, {}


def _fetch(plan: PullPlan, name: str, download: Path, destination: Path) -> str:
    """Bring one file to its place, and hash it there."""
    import huggingface_hub

    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        if is_offline():
            cached = huggingface_hub.hf_hub_download(plan.repository, name, revision=plan.commit, local_files_only=True)
            shutil.copyfile(cached, destination)
        else:
            got = huggingface_hub.hf_hub_download(plan.repository, name, revision=plan.commit, local_dir=download)
            os.replace(got, destination)
    except failures() as error:
        raise _unreachable(f"{name} of {plan.repository}@{plan.commit}", error) from None
    return file_sha256(destination)


def _unreachable(what: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{what} could not be downloaded ({type(error).__name__}: {first_line(error)}). Check the name, the revision "
        f"and the network; a private or gated repository needs a token (hf auth login, or HF_TOKEN)."
    )


def _of_the_weights(what: str, names: Iterable[str], sha256: str | None) -> dict[str, str]:
    if sha256 is None:
        return {}
    if re.fullmatch(SHA256, sha256.lower()) is None:
        raise CheckpointError(f"--sha256 is {sha256!r}; it must be 64 hexadecimal digits.")
    weights = [name for name in names if name.endswith(".safetensors")]
    if len(weights) != 1:
        raise CheckpointError(
            f"{what} has {len(weights)} weights files, and --sha256 is the hash of one; give --lock, which names the "
            f"hash of each."
        )
    return {weights[0]: sha256.lower()}


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
