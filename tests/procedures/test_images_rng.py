from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from baddiffusion.errors import DataError
from baddiffusion.images import from_uint8, grid, png_bytes, read_picture, save_png, to_pil, to_uint8, to_unit
from baddiffusion.rng import derive, generator


def test_the_three_ranges_meet_without_loss() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = from_uint8(pixels)
    assert x.dtype == torch.float32
    assert float(x.min()) == -1
    assert float(x.max()) == 1
    assert torch.equal(to_uint8(x), pixels)
    torch.testing.assert_close(to_unit(x), pixels.float() / 255, rtol=0, atol=1e-7)
    # The reference code divides by 1 + 1e-5 more, so that white is 0.99998 there; black is −1 in both.
    assert pytest.approx(0.99998, abs=1e-7) == 2 / (1 + 1e-5) - 1


def test_what_lies_outside_is_clamped() -> None:
    x = torch.tensor([-3.0, -1, 0, 1, 3]).view(1, 1, 1, 5)
    assert to_unit(x).flatten().tolist() == [0, 0, 0.5, 1, 1]
    assert to_uint8(x).flatten().tolist() == [0, 0, 128, 255, 255]  # 127.5 goes to the even 128


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_picture_survives_png(channels: int, mode: str, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert to_pil(pixels).mode == mode
    save_png(pixels, tmp_path / "a.png")
    assert torch.equal(read_picture(tmp_path / "a.png", channels=channels), pixels)
    assert (tmp_path / "a.png").read_bytes() == png_bytes(pixels)
    big = Image.open(io.BytesIO(png_bytes(pixels, scale=3)))
    assert big.size == (21, 15)
    assert np.array_equal(np.array(big), np.array(to_pil(pixels)).repeat(3, axis=0).repeat(3, axis=1))


def test_a_grid_keeps_order_and_gaps() -> None:
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 3).contiguous()
    sheet = grid(pixels, columns=2, gap_px=1, background=9)
    assert sheet.shape == (1, 8, 7)
    assert sheet[0, ::3, 0].tolist() == [0, 2, 4]
    assert sheet[0, ::3, 4].tolist() == [1, 3, 9]
    assert set(sheet[0, 2].tolist()) == set(sheet[0, :, 3].tolist()) == {9}
    assert grid(pixels, gap_px=0).shape == (1, 2 * 2, 3 * 3)
    assert grid(pixels[:1], gap_px=5).shape == (1, 2, 3)


def test_reading_resizes_and_drops_transparency(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (40, 20), (200, 100, 50, 0)).save(path)
    picture = read_picture(path, size=(10, 30))
    assert picture.shape == (3, 10, 30)
    assert picture[:, 0, 0].tolist() == [200, 100, 50]
    assert read_picture(path, channels=1).shape == (1, 20, 40)


def test_every_unreadable_picture_is_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    noise = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    to_pil(noise).save(whole, "PNG")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    for name in ("text.png", "empty.png", "cut.png"):
        with pytest.raises(DataError, match=rf"{name} cannot be read as a picture \(.+\); give a PNG or JPEG file.$"):
            read_picture(tmp_path / name)
    with pytest.raises(DataError, match=r"absent.png does not exist; give the path of a picture file.$"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(DataError, match=r" is a folder; give the path of one picture file.$"):
        read_picture(tmp_path)


@pytest.mark.parametrize(
    ("array", "name", "mode"),
    [
        (np.full((4, 4), 30_000, np.uint16), "deep.png", "I;16"),
        (np.full((4, 4), 30_000, np.int32), "deep.tif", "I"),
        (np.full((4, 4), 0.5, np.float32), "deep.tif", "F"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_pictures_are_refused_instead_of_turned_white(
    tmp_path: Path, array: np.ndarray, name: str, mode: str, channels: int
) -> None:
    Image.fromarray(array).save(tmp_path / name)
    message = rf"{name} has more than 8 bits per channel \(mode {mode}\); convert it to 8 bits\.$"
    with pytest.raises(DataError, match=message):
        read_picture(tmp_path / name, channels=channels)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_pictures_have_one_or_three_channels(tmp_path: Path, channels: int) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    message = rf"a\.png was asked for with {channels} channels; a picture gives 1 \(grey\) or 3 \(RGB\)\.$"
    with pytest.raises(DataError, match=message):
        read_picture(tmp_path / "a.png", channels=channels)


def test_an_absurdly_large_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"bomb.png cannot be read as a picture"):
        read_picture(tmp_path / "bomb.png")


def test_a_seed_is_a_function_of_its_path() -> None:
    seeds = {derive(s, *path) for s in range(20) for path in [("a",), ("b",), ("a", 1), ("a", "b"), (), (0,), (1,)]}
    assert len(seeds) == 20 * 7
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(-5, "x") != derive(5, "x")
    # Golden: `printf 0/image/7 | b2sum -l 64` of coreutils, halved. If it moves, every image of every seed has changed.
    assert derive(0, "image", 7) == int("c317beeeed36d78f", 16) // 2


def test_a_generator_is_fresh_and_the_global_one_untouched() -> None:
    state = torch.get_rng_state()
    first, again = torch.randn(8, generator=generator(3, "x", 1)), torch.randn(8, generator=generator(3, "x", 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.randn(8, generator=generator(3, "x", 2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_streams_of_neighboring_paths_are_unrelated() -> None:
    streams = torch.stack([torch.randn(20_000, generator=generator(0, "image", i)) for i in range(6)])
    correlation = torch.corrcoef(streams) - torch.eye(6)
    assert correlation.abs().max() < 5 / 20_000**0.5
