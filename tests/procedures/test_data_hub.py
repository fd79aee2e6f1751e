from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from baddiffusion.attacks import BadDiffusion
from baddiffusion.data import CelebaHq, Cifar10, Hub, ResidentImages, StreamedImages, pictures
from baddiffusion.errors import DataError
from baddiffusion.images import from_uint8
from baddiffusion.poisoning import Implant, PoisonPlan
from baddiffusion.triggers import TRIGGERS

datasets = pytest.importorskip("datasets", reason="the extra [data] is not installed")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return tmp_path / "cache"


def png(value: int, side: int = 8) -> bytes:
    pixels = np.full((side, side, 3), value, np.uint8)
    pixels[0, 0] = (255, 0, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def cells(values: range) -> list[dict[str, bytes | str]]:
    return [{"bytes": png(value), "path": f"{value}.png"} for value in values]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two splits as CIFAR-10 has them, without the metadata that Hugging Face adds: 0 … 19 and 20 … 29."""
    root = tmp_path / "set"
    root.mkdir()
    for split, values in (("train", range(20)), ("test", range(20, 30))):
        table = pa.table({"img": cells(values), "label": list(values)})
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet")
    return root


def greys(data: ResidentImages) -> list[int]:
    return data.read(torch.arange(len(data)))[:, 1, -1, -1].tolist()


def test_splits_are_joined_in_order_and_channels_kept(folder: Path) -> None:
    data = Cifar10(path=str(folder)).open((3, 8, 8))
    assert isinstance(data, ResidentImages)
    assert greys(data) == list(range(30))
    assert data.read(torch.tensor([5]))[0, :, 0, 0].tolist() == [255, 0, 1]
    assert data.name == "set, train+test (30 images)"
    assert greys(CelebaHq(path=str(folder)).open((3, 8, 8))) == list(range(30))
    assert greys(Hub(path=str(folder)).open((3, 8, 8))) == list(range(20))
    assert greys(Hub(path=str(folder), split="test[2:4]").open((3, 8, 8))) == [22, 23]


def test_the_data_folder_is_not_written_to(folder: Path, cache: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in [folder, *folder.rglob("*")]}
    Hub(path=str(folder)).open((3, 8, 8))
    assert {file: file.stat().st_mtime_ns for file in [folder, *folder.rglob("*")]} == before
    assert any(cache.rglob("*.arrow"))


def test_a_changed_folder_is_read_anew(folder: Path) -> None:
    before = Hub(path=str(folder)).open((3, 8, 8))
    file = folder / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"img": cells(range(50, 70)), "label": list(range(20))}), file)
    os.utime(file, ns=(1, 1))
    after = Hub(path=str(folder)).open((3, 8, 8))
    assert greys(after) == list(range(50, 70))
    assert after.digest != before.digest


def test_an_image_folder_is_read_with_its_splits(tmp_path: Path) -> None:
    for split, values in (("train", (1, 2)), ("test", (3,))):
        for value in values:
            file = tmp_path / "set" / split / f"{value}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(value))
    assert greys(CelebaHq(path=str(tmp_path / "set")).open((3, 8, 8))) == [1, 2, 3]
    (tmp_path / "set" / "test" / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"set/test/3\.png is not a picture that Pillow can read"):
        CelebaHq(path=str(tmp_path / "set")).open((3, 8, 8))


def save(tmp_path: Path, columns: dict[str, list]) -> str:
    (tmp_path / "set").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), tmp_path / "set" / "train.parquet")
    return str(tmp_path / "set")


def test_the_image_column_is_found(tmp_path: Path) -> None:
    features = datasets.Features({"face": datasets.Image(), "image": datasets.Value("int64")})
    (tmp_path / "marked").mkdir()
    marked = datasets.Dataset.from_dict({"face": cells(range(3)), "image": [0, 1, 2]}, features=features)
    marked.to_parquet(str(tmp_path / "marked" / "train.parquet"))
    assert greys(Hub(path=str(tmp_path / "marked")).open((3, 8, 8))) == [0, 1, 2]

    binary = save(tmp_path, {"image": [png(4), png(5)], "mask": [png(6), png(7)]})
    assert greys(Hub(path=binary).open((3, 8, 8))) == [4, 5]
    assert greys(Hub(path=binary, image_column="mask").open((3, 8, 8))) == [6, 7]


def test_column_errors(tmp_path: Path) -> None:
    path = save(tmp_path, {"left": cells(range(2)), "right": cells(range(2)), "label": [0, 1]})
    with pytest.raises(DataError, match="has no single column of pictures; set image_column to one of: left, right"):
        Hub(path=path).open((3, 8, 8))
    with pytest.raises(DataError, match=r"image_column is 'middle'; .* has the columns left, right, label"):
        Hub(path=path, image_column="middle").open((3, 8, 8))
    with pytest.raises(DataError, match=r"image_column is 'label', which holds no pictures; .* left, right, label"):
        Hub(path=path, image_column="label").open((3, 8, 8))


@pytest.mark.parametrize("limit_bytes", [2**30, 0], ids=["resident", "streamed"])
def test_a_bad_row_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_bytes: int) -> None:
    monkeypatch.setattr(pictures, "RESIDENT_LIMIT_BYTES", limit_bytes)

    def consume(cell: dict | None) -> None:
        data = Hub(path=save(tmp_path, {"img": [*cells(range(4)), cell], "label": [0] * 5})).open((3, 8, 8))
        list(data.batches([torch.arange(5)]))

    with pytest.raises(DataError, match=r"row 4 of .*set \(4\.png\) is damaged \(.*\); remove it or replace it"):
        consume({"bytes": png(4)[:-30], "path": "4.png"})
    with pytest.raises(DataError, match=r"row 4 of .*set is not a picture that Pillow can read"):
        consume({"bytes": b"?", "path": None})
    with pytest.raises(DataError, match=r"row 4 of .*set holds no picture; remove the row, or set limit to at most 4"):
        consume({"bytes": None, "path": None})
    with pytest.raises(DataError, match=r"row 4 of .*set holds no picture"):
        consume(None)
    with pytest.raises(DataError, match=r"/nowhere/4\.png cannot be read \(No such file or directory\)"):
        consume({"bytes": None, "path": "/nowhere/4.png"})


def fails(fields: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Hub(**fields).open((3, 8, 8))
    assert "\n" not in str(caught.value)


def test_loading_errors_are_one_line(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    path = str(folder)
    check = "check config and split, and that the folder holds parquet files or pictures"
    fails(
        {"path": path, "split": "tran"},
        rf"set \(split tran\) cannot be loaded \(ValueError: .*'test'.*{check}",
    )
    fails({"path": path, "config": "x"}, r"BuilderConfig 'x' not found. Available: \['default'\]")
    fails({"path": path, "split": "train[:0]"}, "corresponds to no data")
    fails({"path": str(tmp_path / "empty")}, f"empty .split train. cannot be loaded .*{check}")
    fails({"path": path, "revision": "main"}, "revision is 'main', but .*set is a local folder; leave revision out")
    fails({"path": str(folder / "train-00000-of-00001.parquet")}, "parquet is a file; give the folder it lies in")
    fails({"path": str(tmp_path / "nowhere")}, "nowhere does not exist; give an existing folder, or owner/name")
    fails({"path": "./nowhere"}, "nowhere does not exist; give an existing folder")
    fails({"path": "a/b/c"}, "a/b/c does not exist; give an existing folder")
    fails(
        {"path": "nobody/nothing"},
        r"nobody/nothing \(split train\) cannot be loaded \(.*\); check name, config, split, network and HF_HUB",
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("damage", [lambda raw: b"PAR1garbagePAR1", lambda raw: raw[:30] + b"\0" * 60 + raw[90:]])
def test_a_damaged_table_is_named(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    table = folder / "test-00000-of-00001.parquet"
    table.write_bytes(damage(table.read_bytes()))
    fails(
        {"path": str(folder), "split": "test"},
        r"test-00000-of-00001\.parquet is damaged \(.*\); replace it by",
    )


def test_without_the_extra_the_message_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    fails(
        {"path": str(folder)}, r"hub needs the package datasets .*pip install 'baddiffusion\[data\]', or use the data"
    )


def test_hub_names_pass_through_with_revision_and_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    table = datasets.load_dataset(str(folder), split="train")
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **fields: asked.append((args, fields)) or table)
    data = Hub(path="owner/name", config="small", revision="abc").open((3, 8, 8))
    assert asked == [(("owner/name", "small"), {"split": "train", "revision": "abc"})]
    assert data.name == "owner/name, train (20 images)"
    Cifar10().open((3, 8, 8))
    assert asked[1] == (("uoft-cs/cifar10", None), {"split": "train+test", "revision": None})
    CelebaHq().open((3, 8, 8))
    assert asked[2] == (("korexyz/celeba-hq-256x256", None), {"split": "all", "revision": None})


@pytest.mark.parametrize("limit_bytes", [2**30, 0], ids=["resident", "streamed"])
def test_poisoning_is_per_sample(folder: Path, monkeypatch: pytest.MonkeyPatch, limit_bytes: int) -> None:
    monkeypatch.setattr(pictures, "RESIDENT_LIMIT_BYTES", limit_bytes)
    data = Cifar10(path=str(folder)).open((3, 32, 32))
    assert isinstance(data, StreamedImages if limit_bytes == 0 else ResidentImages)
    plan = PoisonPlan.draw(len(data), 0.3, seed=3)
    target = torch.full((3, 32, 32), 0.5)
    implant = Implant(BadDiffusion(), TRIGGERS.parse("BOX_14").draw((3, 32, 32)), target)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0)).split(10)
    for indices, batch in zip(order, data.batches(order), strict=True):
        poisoned = plan.mask[indices]
        assert 0 < poisoned.sum() < 10, "each batch of this order mixes clean and poisoned images"
        x_0, r = implant.apply(from_uint8(batch), poisoned)
        assert torch.equal((x_0 == target).flatten(1).all(1), poisoned)
        assert torch.equal(r.flatten(1).any(1), poisoned)


@pytest.mark.cifar10
def test_cifar10_is_complete(cifar10_folder: Path) -> None:
    whole = Cifar10(path=str(cifar10_folder)).encoded()
    assert whole.size == 60_000
    assert whole.name.endswith("train+test (60000 images)")
    fit = pictures.Fit((3, 32, 32), resize=False)
    ends = [fit.decode(whole.fetch(index), whole.origin(index)) for index in (0, 49_999, 50_000, 59_999)]
    assert len({image.numpy().tobytes() for image in ends}) == 4


@pytest.mark.cifar10
def test_cifar10_pixels_are_plausible(cifar10_folder: Path) -> None:
    data = Cifar10(path=str(cifar10_folder), split="train", limit=6000, resize=False).open((3, 32, 32))
    assert isinstance(data, ResidentImages)
    assert data.shape == (3, 32, 32)
    # The published means of the 50 000 training images; one image's mean has a standard deviation of 0.12, and so the
    # mean of 6 000 images one of 0.0016.
    means = data.pixels.float().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.005)


@pytest.mark.cifar10
def test_cifar10_digest_is_the_content(cifar10_folder: Path) -> None:
    def digest(**fields: str | int) -> str:
        return Cifar10(path=str(cifar10_folder), **fields).open((3, 32, 32)).digest

    assert digest(limit=200) == digest(limit=200)
    assert len({digest(limit=200), digest(limit=199), digest(limit=200, split="test")}) == 3
