from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baddiffusion.errors import RunError
from baddiffusion.rundir import file_digest
from baddiffusion.sampling import store
from baddiffusion.sampling.store import BLOCK_SIZE, SampleStore

N = 2 * BLOCK_SIZE + 10
BLOCKS = ["000000.safetensors", "000256.safetensors", "000512.safetensors"]


def make(seeds: Sequence[int]) -> tuple[Tensor, dict[str, Any]]:
    return torch.tensor(seeds, dtype=torch.float32).view(-1, 1, 1, 1), {"sampler": "ddpm"}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_blocks_come_back_in_the_order_of_their_seeds(tmp_path: Path) -> None:
    filled = SampleStore(tmp_path / "set")
    filled.fill(N, make)
    assert names(filled.folder) == [*BLOCKS, "index.json"]
    assert torch.equal(filled.read().flatten(), torch.arange(N, dtype=torch.float32))
    assert filled.record == {"n": N, "sampler": "ddpm"}


def test_only_missing_blocks_are_made(tmp_path: Path) -> None:
    filled = SampleStore(tmp_path)
    filled.fill(N, make)
    (tmp_path / BLOCKS[1]).unlink()
    made: list[Sequence[int]] = []

    def watched(seeds: Sequence[int]) -> tuple[Tensor, dict[str, Any]]:
        made.append(seeds)
        return make(seeds)

    filled.fill(N, watched)
    assert made == [range(BLOCK_SIZE, 2 * BLOCK_SIZE)]


@pytest.mark.parametrize("missing", [True, False], ids=["a block is missing", "all blocks are there"])
def test_what_a_killed_process_left_behind_is_swept(missing: bool, tmp_path: Path) -> None:
    filled = SampleStore(tmp_path)
    filled.fill(N, make)
    clean = file_digest(tmp_path)
    abandoned = tmp_path / ".000256.safetensors.4711"
    abandoned.mkdir()
    (abandoned / ".tmpHzQ7D2").write_bytes(b"half")
    (tmp_path / ".000000.safetensors.4711").write_bytes(b"half, of a version without temporary folders")
    (tmp_path / ".index.json.4711").write_text("{")
    if missing:
        (tmp_path / BLOCKS[1]).unlink()
    assert file_digest(tmp_path) != clean
    filled.fill(N, make)
    assert file_digest(tmp_path) == clean
    assert names(tmp_path) == [*BLOCKS, "index.json"]


def test_a_block_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[int] = set()
    replaced: list[tuple[str, bool]] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        flushed.add(os.fstat(descriptor).st_ino)

    def watched_replace(source: Path, target: Path) -> None:
        replaced.append((target.name, os.stat(source).st_ino in flushed))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    SampleStore(tmp_path).fill(10, make)
    assert replaced == [("index.json", True), (BLOCKS[0], True)]


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("broken", ["fsync", "replace", "save_file"])
def test_a_disk_that_fills_up_keeps_the_blocks_before_it(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = SampleStore(tmp_path)
    filled.fill(N, make)
    whole = file_digest(tmp_path)
    (tmp_path / BLOCKS[2]).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(store, "write_atomic", lambda path, content: path.write_text(content))
        patched.setattr(store if broken == "save_file" else os, broken, _full)
        with pytest.raises(
            RunError,
            match=r"000512.safetensors could not be written \(.*No space left on device\); "
            r"make room and start the same command again.$",
        ):
            filled.fill(N, make)
    assert names(tmp_path) == [*BLOCKS[:2], "index.json"]
    filled.fill(N, make)
    assert file_digest(tmp_path) == whole


def test_an_empty_folder_has_no_samples(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no samples; run the sampling stage first.$"):
        SampleStore(tmp_path).read()


def test_a_damaged_block_is_told(tmp_path: Path) -> None:
    filled = SampleStore(tmp_path)
    filled.fill(N, make)
    (tmp_path / BLOCKS[1]).write_bytes(b"half")
    with pytest.raises(RunError, match=r"^samples in .+ are damaged \(.+\); start a new run.$"):
        filled.read()
