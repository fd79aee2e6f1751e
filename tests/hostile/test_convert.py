from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.errors import CheckpointError, UnsafeFile
from baddiffusion.hub import conversion, convert, pickle_child
from baddiffusion.models import build, unet_config

SCHEDULER = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 100}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
PICKLE = "unet/diffusion_pytorch_model.bin"


class Payload:
    """Calls a function with one string when unpickled."""

    def __init__(self, function: Callable[[str], Any], argument: str) -> None:
        self.function, self.argument = function, argument

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return self.function, (self.argument,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build(unet_config("micro", (1, 8, 8)), seed=0)
    return Checkpoint.write(tmp_path / "model", model, SCHEDULER, Card(backdoored=False, base="b")).path


@pytest.fixture
def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights; their file is gone from the folder."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    return tensors


def refuses(folder: Path, message: str, error: type[CheckpointError] = CheckpointError) -> None:
    destination = folder.parent / "converted"
    with pytest.raises(error, match=message) as caught:
        convert(folder, destination)
    assert "\n" not in str(caught.value)
    assert not destination.exists()


@pytest.mark.parametrize(
    ("protocol", "name"), [(0, "diffusion_pytorch_model.bin"), (2, "weights.pt"), (4, "weights.pkl")]
)
def test_payload_is_named_and_never_run(
    folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path, protocol: int, name: str
) -> None:
    sentinel = tmp_path / "sentinel"
    (folder / "unet" / name).write_bytes(pickle.dumps({"a": Payload(os.system, f"touch {sentinel}")}, protocol))
    refuses(folder, rf"{name} would call (posix|nt)\.system when loaded; it was not loaded", UnsafeFile)
    assert not sentinel.exists()


def test_payload_in_a_torch_file_is_named_and_never_run(
    folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    sentinel = tmp_path / "sentinel"
    torch.save({**weights, "extra": Payload(os.system, f"touch {sentinel}")}, folder / PICKLE)
    refuses(folder, r"would call (posix|nt)\.system when loaded", UnsafeFile)
    assert not sentinel.exists()


def test_payload_unknown_to_the_scan_is_refused_by_the_restricted_unpickler(
    folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    sentinel = tmp_path / "sentinel"
    sentinel.touch()
    torch.save({**weights, "extra": Payload(os.path.getsize, str(sentinel))}, folder / PICKLE)
    refuses(folder, r"holds more than tensors, and torch's restricted unpickler refused it", UnsafeFile)


def test_payload_behind_garbage_is_not_run(folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    stream = pickle.dumps(Payload(os.system, f"touch {sentinel}"), 2)
    (folder / PICKLE).write_bytes(stream[:-1] + b"\xff\xff\xff.")
    refuses(folder, r"would call (posix|nt)\.system when loaded", UnsafeFile)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\); download it again"),
        (b"PK\x03\x04", r"cannot be converted: .*\. Ask for safetensors"),
    ],
)
def test_damaged_pickle(folder: Path, weights: dict[str, torch.Tensor], content: bytes, message: str) -> None:
    (folder / PICKLE).write_bytes(content)
    refuses(folder, rf"{PICKLE} {message}")


def test_deeply_nested_pickle_is_survived(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    depth = 20_000
    (folder / PICKLE).write_bytes(b"\x80\x02" + b"(" * depth + b"t" * depth + b".")
    refuses(folder, r"cannot be converted: RuntimeError: Invalid magic number")


def test_compressed_archive_is_refused_before_it_is_unpacked(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    plain, packed = io.BytesIO(), folder / PICKLE
    torch.save({"bomb": torch.zeros(25_000_000)}, plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    assert packed.stat().st_size < 1_000_000
    refuses(folder, r"inside is compressed, which torch\.save never does")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"it holds a list, not a dictionary of weights"),
        ({}, r"it holds a dict, not a dictionary of weights"),
        ({"epoch": 3}, r"its entry 'epoch' is a int, not a named tensor"),
        ({3: torch.zeros(1)}, r"its entry 3 is a Tensor, not a named tensor"),
        ({"step": torch.tensor(3)}, r"its entry 'step' is a torch\.int64 tensor, not an ordinary tensor of floats"),
        ({"a": torch.zeros(1).expand(10**12)}, r"it holds 1000000000000 parameters, more than 1000000000"),
    ],
)
def test_wrong_content(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "own.bin")  # written here, so it may be read without a child process
    answer = pickle_child.load(str(tmp_path / "own.bin"), str(tmp_path / "output"))
    assert re.search(message, answer["error"])
    assert not (tmp_path / "output").exists()


def test_content_that_does_not_fit(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save({"model": {"a": torch.zeros(2)}}, folder / PICKLE)
    refuses(folder, rf"{PICKLE}: weight a of shape \(2,\) is not part of the network")


def test_time_limit(folder: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / PICKLE).write_bytes(b"x")
    sleeper = folder / "sleeper.py"
    sleeper.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(conversion, "CHILD", sleeper)
    monkeypatch.setattr(conversion, "TIME_LIMIT_S", 1)
    refuses(folder, r"cannot be converted: it took longer than 1 s to read")


@pytest.mark.parametrize("answer", [b"", b"not json\n", b"[1]\n"])
def test_child_that_dies_or_babbles(
    folder: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    (folder / PICKLE).write_bytes(b"x")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, -6, answer, b""))
    refuses(folder, r"cannot be converted: the process that read it (ended with code -6 and no answer|gave no answer)")


def test_nothing_to_convert(folder: Path) -> None:
    refuses(folder, rf"{WEIGHTS} is there: nothing to convert")
    (folder / WEIGHTS).unlink()
    refuses(folder, r"holds 0 pickles \(none\); there must be one")
    for name in ("a.pt", "b.ckpt"):
        (folder / "unet" / name).touch()
    refuses(folder, r"holds 2 pickles \(a\.pt, b\.ckpt\); there must be one .* called diffusion_pytorch_model\.bin")


def test_pickle_outside_the_folder(folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "outside.bin")
    (folder / PICKLE).symlink_to(tmp_path / "outside.bin")
    refuses(folder, r"is a link out of the checkpoint folder")


def test_destination_exists(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"exists; nothing is overwritten"):
        convert(folder, tmp_path)


def test_source_is_a_file(folder: Path) -> None:
    refuses(folder / "model_index.json", r"is a file; give the folder")


def test_convert_keeps_weights_configs_and_card(folder: Path, tmp_path: Path) -> None:
    before = Checkpoint.open(folder)
    digest, card = before.digest, before.card
    torch.save(load_file(folder / WEIGHTS), folder / PICKLE)
    (folder / WEIGHTS).unlink()
    converted = convert(folder, tmp_path / "converted")
    assert converted.digest == digest
    assert converted.card == card
    assert converted.scheduler_config == SCHEDULER
    assert converted.not_loaded == ()


def test_convert_flat_nested_old_names_shared_storage_half(
    folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for part in ("unet/config.json", "scheduler/scheduler_config.json"):
        (flat / Path(part).name).write_bytes((folder / part).read_bytes())
    shared = torch.cat([tensor.reshape(-1) for tensor in weights.values()]).half()
    parts = shared.split([tensor.numel() for tensor in weights.values()])
    views = {}
    for (name, tensor), part in zip(weights.items(), parts, strict=True):
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(new, old)
        views[name] = part.view(tensor.shape)
    torch.save({"epoch": 3, "state_dict": views}, flat / "last.ckpt")
    converted = convert(flat, tmp_path / "converted")
    loaded = converted.load_model().state_dict()
    assert all(torch.equal(loaded[name], tensor.half().float()) for name, tensor in weights.items())
    assert {t.dtype for t in load_file(converted.path / WEIGHTS).values()} == {torch.float16}
    assert json.loads((converted.path / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
