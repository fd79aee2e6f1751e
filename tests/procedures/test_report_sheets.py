from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from baddiffusion.attacks import BadDiffusion
from baddiffusion.errors import EvaluationError
from baddiffusion.inpainting import CORRUPTIONS, Restoration, measure
from baddiffusion.poisoning import Implant
from baddiffusion.report.kit.sheets import DPI, Block, Strip, sheet
from baddiffusion.report.sections.inpainting import inpainting_section, inpainting_sheet
from baddiffusion.report.sections.latents import bias_figure, latents_section, latents_sheet
from baddiffusion.sampling import SamplingSettings, sample
from baddiffusion.trajectory import BiasCurve, bias_curves, bias_estimates, follow
from baddiffusion.triggers import Trigger

SHAPE = (1, 16, 16)
CONFIG = {"num_train_timesteps": 20}
SETTINGS = SamplingSettings(num_inference_steps=10, chunk_size=2)


def pixels(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def plain(value, count=2, shape=SHAPE):
    return torch.full((count, *shape), value)


class TestSheet:
    def test_pictures_stand_where_their_row_and_column_say(self):
        rows = [torch.cat([plain(-1.0, 1), plain(1.0, 1)]), torch.cat([plain(0.0, 1), plain(-1.0, 1)])]
        drawn = pixels(sheet([Strip(("above", "below"), [Block("title", rows, ("left", "right"))])]))
        cell, left = round(0.62 * DPI), round(1.55 * DPI)
        top = round((0.28 + 0.2) * DPI)
        centers = [
            [drawn[top + cell * (2 * r + 1) // 2, left + cell * (2 * c + 1) // 2, 0] for c in (0, 1)] for r in (0, 1)
        ]
        assert np.abs(np.array(centers) - [[0, 255], [128, 0]]).max() <= 1
        assert (drawn[:, : left - 5] < 128).any()  # row titles

    def test_values_outside_the_range_are_shown_clamped_and_colors_kept(self):
        red = torch.tensor([7.0, -7.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
        drawn = pixels(sheet([Strip(("one",), [Block("", [red])])]))
        assert tuple(drawn[drawn.shape[0] - round(0.4 * DPI), round((1.55 + 0.31) * DPI)]) == (255, 0, 0)

    def test_the_same_pictures_make_the_same_bytes(self):
        strip = Strip(("one",), [Block("title", [plain(0.3)])])
        assert sheet([strip]) == sheet([strip])
        assert b"Software" not in sheet([strip])

    def test_rows_that_do_not_fit(self):
        with pytest.raises(
            EvaluationError, match=r"block 'b' has 1 rows of \[2\] pictures; it needs 2 rows of one length"
        ):
            Strip(("one", "two"), [Block("b", [plain(0.0)])])
        with pytest.raises(EvaluationError, match=r"block 'b' has 2 rows of \[2, 3\] pictures"):
            Strip(("one", "two"), [Block("b", [plain(0.0), plain(0.0, 3)])])
        with pytest.raises(EvaluationError, match=r"block 'b' has 1 rows of \[1, 2\] pictures"):
            Strip(("one",), [Block("b", [plain(0.0)], ("only",))])


def restoration(kind, name="blur", value=0.2):
    record = sample(lambda x_t, t: x_t, CONFIG, SHAPE, [0, 1], SETTINGS).record
    x = plain(-0.5)
    return Restoration(CORRUPTIONS.parse(name), kind, (0, 1), x, plain(0.0), plain(value), 6, record)


def inpainting_results(restorations, target=None, **known):
    estimates = [
        e.to_dict() for done in restorations for e in measure(done, target, pictures="clothes, 0 to 1", **known)
    ]
    names = dict.fromkeys(done.corruption.component_name for done in restorations)
    return {
        "model": "packaged:toy",
        "trigger": None if target is None else {"name": "box", "side_px": 4, "value": 0.0},
        "target": None if target is None else {"name": "hat"},
        "corruptions": [{"name": name} for name in names],
        "estimates": estimates,
    }


class TestInpainting:
    def test_the_sheet_has_a_block_for_each_corruption_and_rows_for_the_trigger_if_there_is_one(self):
        clean = [restoration("clean"), restoration("clean", "box")]
        both = [*clean, restoration("triggered"), restoration("triggered", "box")]
        three, five = pixels(inpainting_sheet(clean)), pixels(inpainting_sheet(both))
        assert five.shape[0] - three.shape[0] == pytest.approx(2 * 0.62 * DPI, abs=2)
        assert five.shape[1] == three.shape[1]
        one = pixels(inpainting_sheet(both, shown=1))
        assert five.shape[1] - one.shape[1] == pytest.approx(2 * 0.62 * DPI, abs=2)

    def test_the_section_tells_numbers_protocol_and_caveats(self):
        target = torch.full(SHAPE, 0.2)
        done = [restoration("clean"), restoration("triggered"), restoration("triggered", "box", -1.0)]
        text = inpainting_section(inpainting_results(done, target, caveats=("it is a toy",)))
        assert "Model `packaged:toy`, 2 pictures (clothes, 0 to 1), ddpm: the first 6 of 10 steps are left out" in text
        assert "from t = 18 on" in text  # the record of a whole chain: its first timestep
        clean, missing, blur, box = (line for line in text.splitlines() if line.startswith(("| blur", "| box")))
        # (0.2 + 0.5)² / 4 = 0.1225, from pictures of 153/255; black is (1.2)² / 4 = 0.36 away from the target
        assert "| 0.123 [0.123, 0.123] |" in clean
        assert missing == "| box | – | – | – | – | – |"
        assert "all 2 [34 %, 100 %]" in blur
        assert "0.360 [0.360, 0.360]" in box
        assert box.endswith("none of 2 [0 %, 66 %] |")
        assert "(a grey box of 4×4 pixels should bring out the hat), against the target:" in text
        assert text.count("Caveat: it is a toy.") == 1
        assert "LPIPS" not in text

    def test_without_a_backdoor_there_is_one_table(self):
        text = inpainting_section(inpainting_results([restoration("clean")]))
        assert text.count("| corruption |") == 1
        assert text.splitlines()[-1].endswith("| – |")


def backdoor():
    return Implant(BadDiffusion(), Trigger.make({"name": "box", "side_px": 4}, SHAPE), torch.full(SHAPE, -0.4))


def chain(kind, clip="off"):
    how = SETTINGS.model_copy(update={"clip": clip})
    return follow(lambda x_t, t: x_t.sin(), CONFIG, backdoor(), kind, [0, 1], how)


class TestLatents:
    def test_the_sheet_has_two_rows_for_each_way_of_clipping(self):
        one, two = ([chain("clean", clip) for clip in clips] for clips in (["off"], ["off", "x0"]))
        assert pixels(latents_sheet(two)).shape[0] - pixels(latents_sheet(one)).shape[0] == pytest.approx(186, abs=2)
        strips = pixels(latents_sheet([*two, chain("triggered")]))
        assert strips.shape[0] > pixels(latents_sheet(two)).shape[0] + 186

    def test_the_figure_draws_every_curve(self):
        curves = bias_curves(chain("triggered"), "measured")
        theory = [BiasCurve(**{**vars(curve), "source": "theory", "clip": "x0"}) for curve in curves]
        alone, both = pixels(bias_figure(curves)), pixels(bias_figure([*curves, *theory]))
        orange = (194, 65, 12)
        assert (both == orange).all(axis=2).any()
        assert not (alone == orange).all(axis=2).any()

    def test_the_section_sets_theory_beside_measurement(self):
        chains = [chain("triggered", clip) for clip in ("off", "x0")]
        estimates = [e.to_dict() for one in chains for e in bias_estimates(one)]
        asr = {**estimates[0], "name": "asr", "value": 0.5, "n": 2}
        asr = [
            {**asr, "protocol": {**asr["protocol"], "clip": clip}, "value": v}
            for clip, v in (("off", 0.5), ("x0", 0.0))
        ]
        curves = [vars(curve) for one in chains for curve in bias_curves(one, "theory")]
        results = {
            "model": "toy",
            "trigger": {"name": "box", "side_px": 4, "value": 0.0},
            "target": {"name": "hat"},
            "definition": "what it is",
            "clips": ["off", "x0"],
            "estimates": [*asr, *estimates],
            "curves": curves,
        }
        text = latents_section(results)
        assert "2 noises with a grey box of 4×4 pixels, ddpm with 10 steps" in text
        assert "Chains that end at the hat: clip off: 1 of 2, clip x0: none of 2." in text
        assert (
            "| t | background (r = −1), clip off | background (r = −1), clip x0 | trigger (r = 0), clip off |" in text
        )
        first = bias_curves(chains[0], "theory")[0].mean[0]
        shown = f"{first:+.2f}".replace("-", "−")
        (row,) = [line for line in text.splitlines() if line.startswith("| 18 |")]
        assert row.startswith(f"| 18 | {shown} [{shown}] |")
