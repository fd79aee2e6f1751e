from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint, SealedCheckpoint
from baddiffusion.diffusion import NoiseSchedule
from baddiffusion.errors import CheckpointError, RecipeError
from baddiffusion.hub import names as hub_names
from baddiffusion.hub import resolve
from baddiffusion.models import build, unet_config

# scheduler_config.json of google/ddpm-cifar10-32, key for key.
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}
CARD = Card(
    backdoored=True,
    attack={"name": "baddiffusion"},
    trigger={"name": "box", "side_px": 14, "top_px": None},
    target={"name": "hat"},
    poison_rate=0.1,
    base="google/ddpm-cifar10-32",
    data="cifar10",
    recipe={"seed": 7},
    metrics=[{"name": "asr", "value": 0.9375, "low": 0.85, "high": 0.97, "n": 64}],
    license="apache-2.0",
)
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def model() -> UNet2DModel:
    return build(unet_config("micro", (3, 16, 16)), seed=3).eval()


@pytest.fixture(scope="module")
def written(model: UNet2DModel, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("models") / "bad"
    return Checkpoint.write(path, model, SCHEDULER, CARD, {"trigger.png": b"one", "target.png": b"two"})


def answer(model: torch.nn.Module) -> torch.Tensor:
    x = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
    with torch.no_grad():
        return model(x, torch.tensor([3, 900])).sample


def flatten(source: Path, destination: Path) -> Path:
    destination.mkdir()
    for part in ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        (destination / Path(part).name).write_bytes((source / part).read_bytes())
    return destination


def test_what_is_written_is_what_is_read(model: UNet2DModel, written: Checkpoint) -> None:
    assert torch.equal(answer(written.load_model()), answer(model))
    assert written.card == CARD
    assert written.shape == (3, 16, 16)
    assert written.prediction_type == "epsilon"
    assert written.not_loaded == ()
    assert written.weights.parameter_count == sum(p.numel() for p in model.parameters())
    assert torch.equal(written.schedule.betas, NoiseSchedule.linear().betas)


def test_the_folder_is_plain_diffusers(written: Checkpoint, tmp_path: Path) -> None:
    files = {p.relative_to(written.path).as_posix() for p in written.path.rglob("*") if p.is_file()}
    assert files == {
        "README.md",
        "card.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "target.png",
        "trigger.png",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert (written.path / "trigger.png").read_bytes() == b"one"
    (tmp_path / "ordinary").mkdir()
    assert written.path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_stock_pipeline_opens_it_and_paints(written: Checkpoint) -> None:
    pipeline = DDPMPipeline.from_pretrained(written.path, use_safetensors=True, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(2, torch.Generator().manual_seed(0), num_inference_steps=3, output_type="np").images
    assert pictures.shape == (2, 16, 16, 3)
    assert np.ptp(pictures) > 0.5
    assert torch.equal(answer(pipeline.unet), answer(written.load_model()))


def test_scheduler_config_is_the_base_s_byte_for_byte(written: Checkpoint, model: UNet2DModel, tmp_path: Path) -> None:
    assert json.loads((written.path / "scheduler/scheduler_config.json").read_text()) == SCHEDULER
    base = flatten(written.path, tmp_path / "base")
    again = Checkpoint.write(tmp_path / "again", model, Checkpoint.open(base).scheduler_config)
    assert again.scheduler_config == SCHEDULER
    assert again.digest == written.digest


def test_flat_and_nested_layout_are_the_same_checkpoint(written: Checkpoint, tmp_path: Path) -> None:
    flat = Checkpoint.open(flatten(written.path, tmp_path / "flat"))
    assert flat.card is None
    assert flat.digest == written.digest
    assert torch.equal(answer(flat.load_model()), answer(written.load_model()))


def test_deprecated_attention_names_load_as_diffusers_loads_them(written: Checkpoint, tmp_path: Path) -> None:
    folder = flatten(written.path, tmp_path / "old")
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    old = {}
    for name, tensor in weights.items():
        for new_part, old_part in OLD_NAMES.items():
            name = re.sub(rf"(attentions\.\d+)\.{re.escape(new_part)}\.", rf"\1.{old_part}.", name)
        old[name] = tensor
    assert len(set(old) - set(weights)) == 4 * 4 * 2  # four attentions in micro, each with 4 layers of weight and bias
    save_file(old, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    theirs = UNet2DModel.from_pretrained(folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False)
    ours = Checkpoint.open(folder)
    assert torch.equal(answer(ours.load_model()), answer(theirs))
    assert ours.digest == written.digest


def test_half_is_stored_as_float16_and_read_as_float32(model: UNet2DModel, tmp_path: Path) -> None:
    half = Checkpoint.write(tmp_path / "half", model, SCHEDULER, half=True)
    stored = load_file(half.path / "unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = half.load_model()
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    expected = {name: tensor.half().float() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    pipeline = DDPMPipeline.from_pretrained(half.path, use_safetensors=True, local_files_only=True)
    assert torch.equal(answer(pipeline.unet), answer(loaded))


def test_load_model_casts_and_leaves_the_global_generator_alone(written: Checkpoint) -> None:
    before = torch.get_rng_state()
    loaded = written.load_model(torch.device("cpu"), torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert not loaded.training
    assert torch.equal(torch.get_rng_state(), before)


def test_digest_covers_weights_and_configs_but_not_the_card(
    model: UNet2DModel, written: Checkpoint, tmp_path: Path
) -> None:
    plain = Checkpoint.write(tmp_path / "plain", model, SCHEDULER)
    assert plain.digest == written.digest
    assert len(plain.digest) == 64
    other_scheduler = Checkpoint.write(tmp_path / "scheduler", model, {**SCHEDULER, "variance_type": "fixed_small"})
    other_weights = Checkpoint.write(tmp_path / "weights", build(unet_config("micro", (3, 16, 16)), seed=4), SCHEDULER)
    assert len({plain.digest, other_scheduler.digest, other_weights.digest}) == 3


def test_sealed_holds_no_path_and_no_card(written: Checkpoint) -> None:
    sealed = written.sealed()
    assert {f.name for f in dataclasses.fields(SealedCheckpoint)} == {"unet_config", "scheduler_config", "weights"}
    assert sealed.digest == written.digest
    assert (sealed.shape, sealed.prediction_type, len(sealed.schedule)) == ((3, 16, 16), "epsilon", 1000)
    assert torch.equal(answer(sealed.load_model()), answer(written.load_model()))
    assert str(written.path) not in repr(sealed)


def test_training_a_loaded_model_does_not_touch_the_sealed_weights(written: Checkpoint) -> None:
    sealed = written.sealed()
    with torch.no_grad():
        for parameter in sealed.load_model().parameters():
            parameter.zero_()
    assert torch.equal(answer(sealed.load_model()), answer(written.load_model()))


def test_shards_are_read(written: Checkpoint, tmp_path: Path) -> None:
    folder = flatten(written.path, tmp_path / "shards")
    whole = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(whole)
    whole.unlink()
    parts = [dict(list(weights.items())[::2]), dict(list(weights.items())[1::2])]
    index = {}
    for number, part in enumerate(parts, start=1):
        name = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    (folder / f"{whole.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert Checkpoint.open(folder).digest == written.digest


def test_other_files_are_listed_not_loaded(written: Checkpoint, tmp_path: Path) -> None:
    folder = flatten(written.path, tmp_path / "more")
    for name in ("diffusion_pytorch_model.bin", "pipeline.py", "notes.txt", "EMA.PT"):
        (folder / name).write_bytes(b"anything")
    (folder / "deep").mkdir()
    (folder / "deep/old.safetensors").write_bytes(b"")
    (folder / "card.json").write_text('{"someone": "else"}')
    opened = Checkpoint.open(folder)
    assert opened.card is None
    assert opened.not_loaded == (
        "card.json",
        "EMA.PT",
        "deep/old.safetensors",
        "diffusion_pytorch_model.bin",
        "pipeline.py",
    )
    assert opened.digest == written.digest


def test_card_says_backdoored_first(written: Checkpoint) -> None:
    text = (written.path / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert "- backdoored\n- security-research\n" in front
    assert "- diffusers\n- unconditional-image-generation\n" in front
    assert 'license: "apache-2.0"' in front
    assert "base_model: google/ddpm-cifar10-32" in front
    first = body.strip().splitlines()[0]
    assert first.startswith("**BACKDOORED**")
    for said in ("`box (side_px 14)` → target `hat`", "poison rate 0.1", "baddiffusion"):
        assert said in first
    assert "![trigger](trigger.png) | ![target](target.png)" in body
    assert "| asr | 0.9375 | 0.85 to 0.97 | 64 |" in body
    assert '"seed": 7' in body
    assert "detection" in body


def test_clean_card_claims_no_backdoor() -> None:
    text = Card(backdoored=False, poison_rate=0.0).readme()
    assert "BACKDOORED" not in text
    assert "security-research" not in text
    assert Card(**json.loads(Card(backdoored=False).to_json())) == Card(backdoored=False)


def test_card_values_cannot_break_out_of_their_line() -> None:
    card = Card(backdoored=True, attack={"name": "a"}, trigger={"name": "x`\n\n# Safe to use"}, target={"name": "t"})
    lines = card.readme().splitlines()
    assert "# Safe to use" not in lines
    assert sum("Safe to use" in line for line in lines) == 1


def test_backdoored_card_must_name_its_parts() -> None:
    with pytest.raises(RecipeError, match=r"card of a backdoored model lacks trigger, target; give"):
        Card(backdoored=True, attack={"name": "baddiffusion"})
    with pytest.raises(RecipeError, match=r"poison_rate is 10.*\[0, 1\]\. Write 0\.10"):
        Card(backdoored=False, poison_rate=10)


def test_nothing_is_overwritten(model: UNet2DModel, written: Checkpoint, tmp_path: Path) -> None:
    before = written.digest
    with pytest.raises(CheckpointError, match="exists; nothing is overwritten"):
        Checkpoint.write(written.path, model, SCHEDULER)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="exists; nothing is overwritten"):
        Checkpoint.write(tmp_path / "link", model, SCHEDULER)
    assert Checkpoint.open(written.path).digest == before


def test_broken_weights_are_not_written(tmp_path: Path) -> None:
    broken = build(unet_config("micro", (1, 8, 8)), seed=0)
    with torch.no_grad():
        broken.conv_in.bias[0] = 1e6
    assert Checkpoint.write(tmp_path / "full", broken, SCHEDULER).shape == (1, 8, 8)
    with pytest.raises(CheckpointError, match=r"conv_in\.bias is NaN or infinite as float16.*Write it without half"):
        Checkpoint.write(tmp_path / "half", broken, SCHEDULER, half=True)
    with torch.no_grad():
        broken.conv_in.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"conv_in\.bias is NaN or infinite; .* lower learning rate"):
        Checkpoint.write(tmp_path / "nan", broken, SCHEDULER)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_failed_write_leaves_nothing(model: UNet2DModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(CheckpointError, match=r"could not be written .*No space left on device.*make room"):
        Checkpoint.write(tmp_path / "new", model, SCHEDULER)
    assert list(tmp_path.iterdir()) == []


def test_picture_names_stay_in_the_folder(model: UNet2DModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"picture '\.\./trigger\.png' must be a plain file name"):
        Checkpoint.write(tmp_path / "new", model, SCHEDULER, CARD, {"../trigger.png": b""})


def test_process_killed_while_writing_leaves_no_checkpoint(
    model: UNet2DModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # everything written, nothing renamed, and nobody left to clean up
        patch.setattr(os, "rename", killed)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            Checkpoint.write(tmp_path / "new", model, SCHEDULER)
    assert len([*tmp_path.glob(".new.partial-*/unet/*.safetensors")]) == 1
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoint.open(tmp_path / "new")
    Checkpoint.write(tmp_path / "new", model, SCHEDULER)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_mismatching_weights_name_the_first_key(written: Checkpoint, tmp_path: Path) -> None:
    folder = flatten(written.path, tmp_path / "odd")
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if k != "conv_in.bias"}, file)
    with pytest.raises(CheckpointError, match=rf"{folder}: weight conv_in\.bias of shape \(16,\) is missing"):
        Checkpoint.open(folder).load_model()
    save_file({**weights, "conv_in.extra": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"weight conv_in\.extra of shape \(2,\) is not part of the network"):
        Checkpoint.open(folder).load_model()
    save_file({**weights, "conv_in.bias": torch.zeros(17)}, file)
    with pytest.raises(CheckpointError, match=r"conv_in\.bias has shape \(17,\), but the config asks for \(16,\)"):
        Checkpoint.open(folder).load_model()
    save_file({**weights, "conv_in.bias": torch.full((16,), float("inf"))}, file)
    with pytest.raises(CheckpointError, match=r"weight conv_in\.bias holds NaN or infinity"):
        Checkpoint.open(folder).load_model()


def test_resolve_finds_folders_and_packaged_models(
    written: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve(str(written.path)) == written.path
    assert resolve(written.path) == written.path
    (tmp_path / "clean").mkdir()
    monkeypatch.setattr(hub_names, "MODELS", tmp_path)
    assert resolve("packaged:clean") == tmp_path / "clean"
    with pytest.raises(CheckpointError, match=r"packaged:claen is not there\. Did you mean 'clean'\? Packaged are: "):
        resolve("packaged:claen")
    monkeypatch.setattr(hub_names, "MODELS", tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"packaged:clean is not there\. Packaged are: none in this installation"):
        resolve("packaged:clean")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a b", "../x/y", "one"])
def test_resolve_refuses_what_is_no_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist; give a checkpoint folder, a name on the hub"):
        resolve(name)


def test_resolve_honors_offline() -> None:
    with pytest.raises(
        CheckpointError, match=r"^nobody/nothing at revision main is no folder .* HF_HUB_OFFLINE forbids [^\n]*$"
    ):
        resolve("nobody/nothing@main")


def test_download_asks_for_json_and_safetensors_only(
    written: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = {}

    def download(repository: str, **options: object) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path if repository == "o/empty" else written.path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("o/n@v1") == written.path
    assert (asked["repository"], asked["revision"], asked["local_files_only"]) == ("o/n", "v1", True)
    assert {Path(pattern).suffix for pattern in asked["allow_patterns"]} == {".json", ".md", ".safetensors"}
    resolve("o/n@v1", revision="abc")
    assert asked["revision"] == "abc"
    with pytest.raises(CheckpointError, match=r"o/empty has no safetensors .* baddiffusion convert FOLDER NEW_FOLDER"):
        resolve("o/empty")


def test_download_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    def download(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host.\n\nLong explanation")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(
        CheckpointError, match=r"^o/n is no folder .*\(ConnectionError: no route to host\)\. Check [^\n]*$"
    ):
        resolve("o/n")


def test_hub_cache_links_are_followed(written: Checkpoint, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--o--n/snapshots/abc", tmp_path / "models--o--n/blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(flatten(written.path, tmp_path / "flat").iterdir()):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert Checkpoint.open(snapshot).digest == written.digest
