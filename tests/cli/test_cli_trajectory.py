import json
from pathlib import Path

import pytest

from baddiffusion.attacks import BadDiffusion
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.poisoning import Implant
from baddiffusion.sampling import SamplingSettings
from baddiffusion.targets import TARGETS
from baddiffusion.trajectory import bias_curves, bias_estimates, follow
from baddiffusion.triggers import Trigger

FAST = {"--n": "3", "--steps": "5", "--trigger": "box:side_px=3", "--target": "corner:side_px=4"}


def fast(*flags):
    """A small request, in which a flag that is given replaces the usual one."""
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    return [part for pair in {**FAST, **given}.items() for part in pair]


def test_the_folder_holds_what_the_library_measures(ask, checkpoint: Path, tmp_path: Path):
    told = ask("trajectory", checkpoint, "-o", tmp_path / "out", *fast("--first-seed", "4"), "--json")
    assert told.code == 0, told.err
    assert told.err.startswith("40 network calls (8 images, 5 steps), about ")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "bias.png", "latents.png", "results.json"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert told.json() == {"folder": str(tmp_path / "out"), **results}
    opened = Checkpoint.open(checkpoint)
    trigger = Trigger.make({"name": "box", "side_px": 3}, opened.shape)
    implant = Implant(BadDiffusion(), trigger, TARGETS.parse({"name": "corner", "side_px": 4}).draw(trigger))
    settings = SamplingSettings(num_inference_steps=5, clip="x0")
    chain = follow(opened.load_model(), opened.scheduler_config, implant, "triggered", range(4, 7), settings)
    estimates = [e for e in results["estimates"] if (e["name"], e["protocol"]["clip"]) == ("implied_noise_bias", "x0")]
    assert estimates == [estimate.to_dict() for estimate in bias_estimates(chain)]
    (curve,) = [
        c for c in results["curves"] if (c["source"], c["clip"], c["region"]) == ("measured", "x0", "background")
    ]
    assert curve["mean"] == pytest.approx(bias_curves(chain, "measured")[0].mean, abs=1e-5)
    assert {(c["source"], c["clip"]) for c in results["curves"]} == {
        (source, clip) for source in ("measured", "theory") for clip in ("off", "x0")
    }
    assert [(e["protocol"]["clip"], e["n"]) for e in results["estimates"] if e["name"] == "asr"] == [
        ("off", 3),
        ("x0", 3),
    ]
    assert results["pictured"] == {"seed": 4, "timesteps": [16, 12, 8, 4, 0]}


def test_the_page_and_what_is_said_are_the_same_section(ask, checkpoint: Path, tmp_path: Path):
    told = ask("trajectory", checkpoint, "-o", tmp_path / "out", *fast("--clip", "x0-keep-eps"))
    page = (tmp_path / "out" / "README.md").read_text()
    section = told.out.partition("\n\nin ")[0]
    assert section in page
    assert "clip x0-keep-eps" in section
    assert page.startswith("# Latents under clipping\n\n![")


def test_the_drawn_chain_is_that_of_the_shown_seed(ask, checkpoint: Path, tmp_path: Path):
    def drawn(name: str, *flags: str) -> tuple[bytes, str, dict[str, object]]:
        told = ask("trajectory", checkpoint, "-o", tmp_path / name, *fast(*flags))
        assert told.code == 0, told.err
        page, results = ((tmp_path / name / file).read_text() for file in ("README.md", "results.json"))
        return (tmp_path / name / "latents.png").read_bytes(), page, json.loads(results)

    picture, page, results = drawn("third", "--shown", "2")
    alone, _, _ = drawn("alone", "--first-seed", "2", "--n", "1")
    first, usual_page, usual = drawn("first")
    assert picture == alone != first
    assert "along the chain of seed 2]" in page
    assert "along the chain of seed 0]" in usual_page
    assert results.pop("pictured")["seed"] == 2
    assert usual.pop("pictured")["seed"] == 0
    assert results == usual  # what is measured does not depend on what is drawn


def test_long_chains_are_kept_in_fewer_points():
    from baddiffusion.cli.trajectory import _thinned
    from baddiffusion.trajectory import BiasCurve

    long = tuple(float(v) for v in range(1000))
    curve = BiasCurve("measured", "off", "background", -1.0, 4, tuple(range(999, -1, -1)), long, long, long)
    kept = _thinned(curve)
    assert kept["timesteps"][:2] == [999, 995]
    assert len(kept["timesteps"]) == len(kept["mean"]) == len(kept["low"]) == 250
    assert kept["mean"][1] == 4.0


def test_dry_run_writes_nothing(ask, checkpoint: Path, tmp_path: Path):
    told = ask("trajectory", checkpoint, "-o", tmp_path / "out", *fast(), "--dry-run")
    assert (told.code, told.out) == (0, "")
    assert told.err.startswith("40 network calls (8 images, 5 steps), about ")
    assert not (tmp_path / "out").exists()


class TestRefusals:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--n", "0"), "--n is 0; it must be at least 1."),
            (("--first-seed", "-1"), "--first-seed is -1; it must be at least 0."),
            (
                ("--shown", "3"),
                "--shown is 3; it must be a seed of the chains, from 0 to 2. Change it, or --first-seed or",
            ),
            (("--threshold", "0"), "--threshold is 0.0; it must lie in (0, 1)."),
            (("--steps", "21"), "num_inference_steps is 21; it must lie in [1, 20]"),
            (("--clip", "off"), 'Invalid value "off" for --clip.'),
        ],
    )
    def test_wrong_values(self, ask, checkpoint: Path, tmp_path: Path, flags, message: str):
        told = ask("trajectory", checkpoint, "-o", tmp_path / "out", *fast(*flags))
        assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
        assert message in told.err
        assert not (tmp_path / "out").exists()

    def test_nobody_names_a_backdoor(self, ask, checkpoint: Path, tmp_path: Path):
        told = ask("trajectory", checkpoint, "-o", tmp_path / "out", "--n", "1")
        assert (told.code, told.err.count("\n")) == (2, 1)
        assert "the checkpoint does not say which backdoor to watch; name one" in told.err
