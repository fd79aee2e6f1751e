from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.checkpoint.files import JSON_LIMIT_BYTES
from baddiffusion.errors import CheckpointError, UnsafeFile
from baddiffusion.models import build, unet_config

SCHEDULER = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 100}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CONFIG = "unet/config.json"
SCHEDULE = "scheduler/scheduler_config.json"


class Payload:
    """Runs a shell command when unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.command = f"touch {sentinel}"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build(unet_config("micro", (1, 8, 8)), seed=0)
    return Checkpoint.write(tmp_path / "model", model, SCHEDULER).path


def edit(file: Path, **changes: Any) -> None:
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value != "DELETE"}))


def header_file(path: Path, header: dict[str, Any], data_bytes: int) -> None:
    """A safetensors file with this header, followed by a hole of that size (sparse: it takes no disk)."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + data_bytes)


def refuses(folder: Path, message: str, error: type[CheckpointError] = CheckpointError) -> None:
    with pytest.raises(error, match=message) as caught:
        Checkpoint.open(folder)
    assert "\n" not in str(caught.value)


# Pickles


def test_pickle_alone_is_refused_unopened(folder: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    (folder / WEIGHTS).unlink()
    bad = folder / "unet/diffusion_pytorch_model.bin"
    bad.write_bytes(pickle.dumps(Payload(sentinel)))
    refuses(folder, rf"{bad} is a pickle: .* not opened.* Run: baddiffusion convert {folder} NEW_FOLDER", UnsafeFile)
    assert not sentinel.exists()


def test_pickle_and_code_beside_safetensors_are_listed_never_run(folder: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    names = ("diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.bin", "unet/x.pkl", "scheduler/scheduler.pt")
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Payload(sentinel)))
    for name in ("pipeline.py", "unet/torch.py", "unet/__init__.py"):
        (folder / name).write_text(f"import pathlib; pathlib.Path({str(sentinel)!r}).touch()")
    opened = Checkpoint.open(folder)
    opened.load_model()
    assert opened.not_loaded == tuple(sorted([*names, "pipeline.py", "unet/torch.py", "unet/__init__.py"]))
    assert not sentinel.exists()


def test_pickle_called_safetensors_is_not_unpickled(folder: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    (folder / WEIGHTS).write_bytes(pickle.dumps(Payload(sentinel)))
    refuses(folder, rf"{WEIGHTS} is not a safetensors file: its header would be \d+ bytes")
    assert not sentinel.exists()


# Safetensors


def test_empty_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")
    refuses(folder, rf"{WEIGHTS} has 0 bytes: it is empty or truncated\. Download it again")


@pytest.mark.parametrize("keep", [7, 100, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:keep])
    refuses(folder, rf"{WEIGHTS} (is|has .*) truncated.*ownload it again")


def test_trailing_bytes(folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes() + b"hidden")
    refuses(folder, rf"{WEIGHTS} is not what its header says")


def test_absurd_header_length_reads_nothing(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    refuses(folder, rf"{WEIGHTS} is not a safetensors file: its header would be {1 << 62} bytes long")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"not json", r"header of .* is not valid JSON"),
        (b"[1]", r"header of .* holds a JSON list"),
        (b'{"a": 1, "a": 2}', r"header of .*key 'a' stands there twice"),
        (
            b'{"a": {"dtype": "I64", "shape": [0], "data_offsets": [0, 0]}}',
            r"a has dtype 'I64'; weights are one",
        ),
        (b'{"a": 3}', r"a has dtype None"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}', r"a has shape \[-1\]; it must be a list"),
        (b'{"a": {"dtype": "F32", "shape": "all", "data_offsets": [0, 0]}}', r"a has shape 'all'"),
    ],
)
def test_wrong_header(folder: Path, header: bytes, message: str) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
    refuses(folder, message)


def test_overlapping_tensors_are_refused_by_the_library(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header_file(folder / WEIGHTS, {"a": entry, "b": entry}, 16)
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS} is damaged .*; download it again"):
        Checkpoint.open(folder).load_model()


def test_huge_network_is_refused_from_its_header(folder: Path) -> None:
    count = 1_000_000_001
    header = {"a": {"dtype": "F16", "shape": [count], "data_offsets": [0, 2 * count]}}
    header_file(folder / WEIGHTS, header, 2 * count)
    refuses(folder, rf"holds {count} parameters; at most 1000000000 are loaded")


def test_name_given_twice_under_old_and_new_spelling(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    key = next(name for name in weights if name.endswith("to_q.weight"))
    save_file({**weights, key.replace("to_q", "query"): weights[key].clone()}, folder / WEIGHTS)
    refuses(folder, r"(query|to_q)\.weight comes twice")


def test_missing_weights(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    refuses(folder, rf"{WEIGHTS} is missing \(there is diffusion_pytorch_model\.fp16\.safetensors\); put")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no usable weight_map"),
        ({"weight_map": {}}, "has no usable weight_map"),
        ({"weight_map": {"a": 3}}, "has no usable weight_map"),
        ({"weight_map": {"a": "../../x.safetensors"}}, "has no usable weight_map"),
        ({"weight_map": {"a": "x.bin"}}, "has no usable weight_map"),
        ({"weight_map": {"a": "x.safetensors"}}, r"x\.safetensors is missing, but .* names it; download it"),
    ],
)
def test_wrong_shard_index(folder: Path, index: dict[str, Any], message: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    refuses(folder, message)


# JSON


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON .nested too deeply"),
        (b"[]", "holds a JSON list; it must hold an object"),
        (b'{"sample_size": NaN}', "NaN is not a JSON number"),
        (b'{"sample_size": 8, "sample_size": 16}', "key 'sample_size' stands there twice"),
        (b'{"sample_size": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b" " * (JSON_LIMIT_BYTES + 1), "larger than 1048576 bytes"),
    ],
)
@pytest.mark.parametrize("name", [CONFIG, SCHEDULE, "model_index.json"])
def test_wrong_json(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    refuses(folder, rf"{name}.*{message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, r"the network is a 'UNet2DConditionModel'; supported is UNet2DModel"),
        ({"sample_size": "DELETE"}, r"key 'sample_size' is missing"),
        ({"sample_size": [8, 10**9]}, r"sample_size is 1000000000; it must be an integer in \[1, 4096\]"),
        ({"sample_size": "8"}, r"sample_size is '8'; it must be an integer"),
        ({"in_channels": True}, r"in_channels is True; it must be an integer"),
        ({"out_channels": 2}, r"out_channels is 2 but in_channels is 1; they must be equal"),
        ({"block_out_channels": 16}, r"block_out_channels is 16; it must list 1 to 12"),
        ({"block_out_channels": [8] * 1000}, r"block_out_channels is \[.*; it must list 1 to 12"),
        ({"block_out_channels": [10**9, 32, 32]}, r"block_out_channels is 1000000000; .* \[1, 16384\]"),
        ({"layers_per_block": 10**9}, r"layers_per_block is 1000000000; it must be an integer in \[1, 32\]"),
        ({"sample_size": 9}, r"sample_size is 9; a network of 3 blocks needs a multiple of 4"),
        ({"downsample_padding": 10**9}, r"downsample_padding is 1000000000; it must be 0 or 1"),
        ({"norm_eps": "1e-6"}, r"norm_eps is '1e-6'; it must be a number"),
        ({"num_class_embeds": 10}, r"num_class_embeds is 10: a class-conditional network"),
        ({"class_embed_type": "timestep"}, r"class_embed_type is 'timestep': a class-conditional network"),
    ],
)
def test_wrong_unet_config(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder / CONFIG, **changes)
    refuses(folder, rf"{CONFIG}: {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"down_block_types": ["NoSuchBlock"] * 3}, r"the config describes no UNet2DModel \(ValueError: .*NoSuchBlock"),
        ({"norm_num_groups": 0}, r"the config describes no UNet2DModel \(ZeroDivisionError"),
        ({"act_fn": "os.system"}, r"the config describes no UNet2DModel \(ValueError"),
        ({"block_out_channels": [16, 32, 64]}, r"weight .* has shape .*, but the config asks for"),
        ({"block_out_channels": [16384] * 3}, r"weight .* has shape .*, but the config asks for"),
    ],
)
def test_config_that_builds_no_fitting_network(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder / CONFIG, **changes)
    with pytest.raises(CheckpointError, match=rf"{folder}: {message}"):
        Checkpoint.open(folder).load_model()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta_schedule": "DELETE"}, r"DDPMScheduler has no beta_schedule; supported are schedulers with betas"),
        ({"beta_schedule": "sigmoid"}, r"beta_schedule is 'sigmoid'; known are 'linear'"),
        ({"num_train_timesteps": 10**12}, r"num_train_timesteps is 1000000000000; .* \[1, 100000\]"),
        ({"num_train_timesteps": 0}, r"num_train_timesteps is 0"),
        ({"beta_start": "1e-4"}, r"beta_start is '1e-4'; it must be a number"),
        ({"beta_end": 2.0}, r"betas reach from .* to .*; each must lie in \(0, 1\)"),
        ({"beta_end": 10**400}, r"int too large to convert to float"),
        ({"trained_betas": [0.1]}, r"trained_betas must list 100 numbers"),
        ({"trained_betas": ["0.1"] * 100}, r"trained_betas must list 100 numbers"),
        ({"rescale_betas_zero_snr": True}, r"rescale_betas_zero_snr is set in DDPMScheduler"),
        ({"prediction_type": "flow"}, r"prediction_type is 'flow'; it must be one of epsilon, sample, v_prediction"),
    ],
)
def test_wrong_scheduler_config(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder / SCHEDULE, **changes)
    refuses(folder, rf"{SCHEDULE}: {message}")


def test_text_to_image_pipeline_is_refused_by_name(folder: Path) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["d", "V"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    refuses(
        folder,
        r"model_index\.json describes a 'StableDiffusionPipeline' of unet, vae; supported is an uncond",
    )


@pytest.mark.parametrize("name", [CONFIG, SCHEDULE])
def test_missing_config(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refuses(folder, rf"has neither {name} nor {Path(name).name}")


@pytest.mark.parametrize("content", ["{", "{}", '{"backdoored": "maybe"}', "[]", " " * (JSON_LIMIT_BYTES + 1)])
def test_foreign_card_hides_nothing(folder: Path, content: str) -> None:
    (folder / "card.json").write_text(content)
    opened = Checkpoint.open(folder)
    assert opened.card is None
    assert opened.not_loaded == ("card.json",)


# Paths


def test_folder_that_is_none(folder: Path) -> None:
    refuses(folder / "none", r"none does not exist; give the folder of a diffusers checkpoint")
    refuses(folder / "model_index.json", r"model_index\.json is a file; give the folder")


@pytest.mark.parametrize("name", [CONFIG, SCHEDULE, WEIGHTS, "model_index.json"])
def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    refuses(folder, rf"{name} is a link out of the checkpoint folder, to {tmp_path}/outside; it was not read")


def test_folder_link_out_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "unet").rename(tmp_path / "elsewhere")
    (folder / "unet").symlink_to(tmp_path / "elsewhere")
    refuses(folder, r"unet/config\.json is a link out of the checkpoint folder")


def test_links_inside_the_folder_and_to_the_folder_are_fine(folder: Path, tmp_path: Path) -> None:
    digest = Checkpoint.open(folder).digest
    (folder / WEIGHTS).rename(folder / "w.safetensors")
    (folder / WEIGHTS).symlink_to("../w.safetensors")
    (tmp_path / "alias").symlink_to(folder)
    assert Checkpoint.open(tmp_path / "alias").digest == digest


@pytest.mark.parametrize("target", ["config.json", "nowhere"])
def test_links_that_lead_nowhere(folder: Path, target: str) -> None:
    (folder / CONFIG).unlink()
    (folder / CONFIG).symlink_to(target)
    refuses(folder, rf"{CONFIG} is a link that leads nowhere")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_pipes_and_folders_in_place_of_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refuses(folder, rf"{name} is not a regular file")
    (folder / name).unlink()
    (folder / name).mkdir()
    refuses(folder, rf"{name} is not a regular file")


@pytest.mark.parametrize("name", [CONFIG, SCHEDULE, WEIGHTS])
def test_unreadable_file(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, "builtins.open", folder / name)
    refuses(folder, rf"{name} may not be read \(Permission denied\); check its permissions")


def test_unreadable_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, "os.listdir", folder)
    refuses(folder, rf"{folder} may not be read; check its permissions")


def test_folder_that_may_not_be_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, "os.lstat", folder / CONFIG)
    refuses(folder, rf"{CONFIG} may not be read \(Permission denied\); check its permissions")


def deny(monkeypatch: pytest.MonkeyPatch, function: str, path: Path) -> None:
    """Make one call fail as for a user without permission; the tests may run as root, whom nothing stops."""
    import builtins

    module = {"builtins": builtins, "os": os}[function.split(".")[0]]
    name = function.split(".")[1]
    original = getattr(module, name)

    def denied(target: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(target, str | Path) and Path(target) == path:
            raise PermissionError(13, "Permission denied")
        return original(target, *arguments, **options)

    monkeypatch.setattr(module, name, denied)


def test_non_finite_weights_are_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["conv_out.bias"] = torch.tensor([float("nan")])
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"conv_out\.bias holds NaN or infinity"):
        Checkpoint.open(folder).load_model()
