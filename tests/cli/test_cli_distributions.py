"""evaluate --fid and --lpips where the extra [fid] is not installed; what they give is tested in tests/fid."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from baddiffusion.cli.distributions import clean_sets, note_caveats
from baddiffusion.errors import EvaluationError
from baddiffusion.images import save_png
from baddiffusion.metrics import Estimate

WITHOUT = pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is not None, reason="the extra is installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        save_png(torch.full((3, 32, 32), 60 * index, dtype=torch.uint8), tmp_path / f"{index}.png")
    return tmp_path


@WITHOUT
@pytest.mark.parametrize(
    ("options", "package"),
    [(("--fid", "--reference", "fashion-mnist"), "torch_fidelity"), (("--lpips", "--target", "hat"), "lpips")],
)
def test_without_the_extra(ask, folder: Path, options: tuple[str, ...], package: str) -> None:
    told = ask("evaluate", "--images", folder, *options)
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    missing = f"{package} cannot be imported (No module named '{package}'); write pip install 'baddiffusion[fid]'"
    assert missing in told.err
    assert ask("evaluate", "--images", folder, "--target", "hat").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--images", "x", "--target", "hat", "--reference", "y"),
            "--reference cannot be given without --fid; add --fid.",
        ),
        (
            ("--images", "x", "--inception", "y", "--inception-sha256", "0"),
            "--inception and --inception-sha256 cannot be given without --fid",
        ),
        (("run", "--fid", "--alexnet", "y"), "--alexnet cannot be given without --lpips"),
        (("--images", "x", "--lpips"), "--images needs --target"),
        (("--images", "x", "--fid", "--trigger", "box"), "--images needs --target"),
        (("--images", "x", "--fid", "--threshold", "0.1"), "--images needs --target"),
        (("run", "--lpips"), "--lpips goes with --images and --target"),
    ],
)
def test_refusals(ask, arguments: tuple[str, ...], message: str) -> None:
    told = ask("evaluate", *arguments)
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert message in told.err


def test_no_reference(ask, folder: Path) -> None:
    assert "--fid needs --reference, real pictures" in ask("evaluate", "--images", folder, "--fid").err


def test_the_clean_samples_of_a_run(finished, tmp_path: Path) -> None:
    run, _ = finished
    sets = clean_sets(run)
    assert {path.name.split("/")[-1] for path, _ in sets} == {"clean"}
    for pictures, protocol in sets:
        assert (len(pictures), protocol["seeds"], protocol["steps"]) == (3, "0 to 2", 3)
        assert pictures.pixels.dtype == torch.uint8
    with pytest.raises(EvaluationError, match="has no clean samples; run: baddiffusion evaluate"):
        clean_sets(tmp_path)


def test_caveats_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    def number(name: str, *caveats: str) -> Estimate:
        return Estimate(
            name=name, value=1.0, low=None, high=None, n=3, better="lower", unit="distance", caveats=caveats
        )

    note_caveats([number("fid", "few", "biased"), number("kid", "few"), number("fid", "few")])
    assert capsys.readouterr().err.splitlines() == ["caveat  fid, kid: few", "caveat  fid: biased"]


def test_the_numbers_of_a_run_are_kept_and_reported(
    ask, finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished[0], tmp_path / finished[0].name)
    made = {"kind": "clean", "clip": "off", "sampler": "ddpm", "steps": 3, "reference": "faces"}
    through = {"network": "inception-v3-compat", "weights": "6726825d", "implementation": "torch-fidelity 0.4.0"}
    about = {"reference_split": "train", "reference_n": 900, "reference_resize": "none", **through}
    number = Estimate(
        name="fid",
        value=41.25,
        low=None,
        high=None,
        n=3,
        better="lower",
        unit="squared feature distance",
        protocol={**made, **about},
        caveats=("3 images: below 10000, not to be set beside published numbers",),
    )
    monkeypatch.setattr("baddiffusion.cli.distributions.Published.compare", lambda *_: [number])
    told = ask("evaluate", run, "--fid", "--json")
    assert told.code == 0, told.err
    assert [one["value"] for one in told.json()["reference_estimates"]] == [41.25]
    (file,) = (run / "comparisons").iterdir()
    assert f"kept in {file}, and shown by: baddiffusion report {run}" in told.err
    assert json.loads(file.read_text())["estimates"] == [number.to_dict()]
    told = ask("report", run)
    assert told.code == 0, told.err
    page = (run / "report.html").read_text()
    sentence = (
        "<p>3 samples of each kind beside 900 real pictures: faces, part train, resized: none. Seen through "
        "inception-v3-compat with the weights 6726825d (torch-fidelity 0.4.0).</p>"
    )
    assert page.count(sentence) == 1
    assert page.count(">Distance from real pictures (FID)") == 1
    assert page.index(sentence) < page.index(">Distance from real pictures (FID)") < page.index("41.2")
    assert "3 images: below 10000, not to be set beside published numbers" in page
    assert "<dt>compare with real pictures</dt>" in page
    assert ask("evaluate", run).code == 0  # the run still knows itself as done
