from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from baddiffusion.errors import RunError
from baddiffusion.evaluation import evaluate_images
from baddiffusion.images import png_bytes
from baddiffusion.report.matrix.figure import heat_map
from baddiffusion.report.matrix.heat import bias_grid, error_grid, outcomes, success_grid
from baddiffusion.report.matrix.page import write_matrix_page
from baddiffusion.report.matrix.section import matrix_section

COLUMNS = (("ddpm", 250), ("ddim", 20), ("ddim", 50))
CLIPS = ("off", "x0")
HITS = {(0, "ddpm-250", "off"): 60, (0, "ddpm-250", "x0"): 20, (1, "ddim-20", "off"): 64, (1, "ddim-50", "off"): 33}
BIASES = {(0, "ddpm-250", "off"): 0.03, (0, "ddim-50", "off"): 2.94, (1, "ddim-20", "off"): 0.0}


def cell(row: int, column: tuple[str, int], clip: str) -> dict[str, Any]:
    label = f"{column[0]}-{column[1]}"
    place = (row, label, clip)
    pixels = torch.zeros(64, 1, 16, 16, dtype=torch.uint8)
    pixels[: HITS.get(place, 0)] = 255
    protocol = {"kind": "triggered", "device": "cpu", "precision": "float32", "chunk_size": 32}
    bias = BIASES.get(place, -0.8)
    return {
        "kind": "triggered",
        "row": row,
        "column": label,
        "clip": clip,
        "status": "done",
        "estimates": [e.to_dict() for e in evaluate_images(pixels, torch.ones(1, 16, 16), 0.01, protocol)],
        "prediction": {"bias": bias, "timestep": 700, "last": bias, "spread": 1.0, "fires": abs(bias) < 0.5},
        "file": f"cells/{label}-{clip}.json",
        "sheet": "cells/sheet.png",
    }


def row(model: str, **attack: Any) -> dict[str, Any]:
    box = {"name": "box", "side_px": 6, "value": 0.0, "top_px": None, "left_px": None}
    told = {"poison_rate": 0.1, "is_told": True, "trigger": box, "target": {"name": "hat"}}
    return {"model": model, "attack": {"name": "sampler-matched", "zeta": None, **attack}, **told}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cells = [cell(r, column, clip) for r in (0, 1) for clip in CLIPS for column in COLUMNS]
    cells[2] |= {"status": "refused", "reason": "too <many> steps", "prediction": None, "sheet": None}
    del cells[2]["estimates"]
    cells[3]["prediction"] = None
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "sheet.png").write_bytes(png_bytes(torch.zeros(1, 33, 33, dtype=torch.uint8)))
    quality = {
        "name": "kd_efflite0",
        "value": 0.25,
        "low": 0.2,
        "high": 0.3,
        "level": 0.95,
        "n": 256,
        "better": "lower",
        "unit": "squared MMD",
        "protocol": {},
        "caveats": [],
    }
    summary = {
        "schema": 1,
        "plan": {"clips": list(CLIPS), "n": 64, "threshold": 0.01},
        "columns": [{"label": f"{s}-{n}", "sampler": s, "steps": n} for s, n in COLUMNS],
        "rows": [row("first", sampler="ddpm"), row("<second>", shift="noise")],
        "cells": cells,
        "quality": [{"row": 0, "column": "ddim-50", "clip": "off", "status": "done", "estimates": [quality]}],
        "cut": 0.5,
        "versions": {"baddiffusion": "0.1.0", "torch": "2", "diffusers": "0"},
    }
    (tmp_path / "matrix.json").write_text(json.dumps(summary))
    return tmp_path


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "matrix.json").read_text())


def test_a_square_shows_the_cell_of_its_row_and_column(folder: Path) -> None:
    grid = success_grid(summary_of(folder))
    assert grid.columns == (("ddpm", ("250",)), ("ddim", ("20", "50")))
    shown = {(b.title, clip): [s.text for s in squares] for b in grid.bands for clip, squares in b.rows}
    assert shown == {
        ("first", "no clipping"): ["94", "0", "×"],
        ("first", "clipping"): ["31", "0", "0"],
        ("<second>", "no clipping"): ["0", "100", "52"],
        ("<second>", "clipping"): ["0", "0", "0"],
    }
    assert (
        grid.bands[0].words == "sampler-matched (sampler ddpm): a grey box of 6×6 pixels → the hat, poison rate 10\xa0%"
    )
    best, refused = grid.bands[1].rows[0][1][1], grid.bands[0].rows[0][1][2]
    assert (best.share, best.words) == (1.0, "all 64 fired; interval 94.3\xa0% to 100\xa0%")
    assert (refused.mark, refused.words) == ("refused", "refused by the sampler: too <many> steps")


def test_a_predicted_square_is_colored_where_the_backdoor_should_fire(folder: Path) -> None:
    rows = bias_grid(summary_of(folder)).bands[0].rows
    fires, fails, refused = rows[0][1]
    assert (fires.text, fires.share) == ("0.0", 1.0)
    assert (fails.text, fails.share) == ("−0.8", 0.0)
    assert fails.words == "should not fire: bias of −0.8 standard deviations, at timestep 700"
    assert refused.mark == "refused"
    assert rows[1][1][0].words == "no prediction: the attack brings its own sampler"


def test_an_error_is_colored_by_its_logarithm(folder: Path) -> None:
    first, second = error_grid(summary_of(folder)).bands
    assert (second.rows[0][1][1].text, second.rows[0][1][1].share) == ("0", 1.0)
    assert (second.rows[0][1][0].text, second.rows[0][1][0].share) == ("1.00", 0.0)
    square = first.rows[0][1][0]
    assert square.text == ".06"
    assert square.share == pytest.approx(0.196, abs=0.001)  # log(0.3/0.0625) / log(3000)


def test_a_prediction_is_held_against_what_was_measured(folder: Path) -> None:
    found = [
        (c["row"], c["column"], c["clip"], expected, fired)
        for c, expected, fired in outcomes(summary_of(folder)["cells"])
    ]
    assert len(found) == 10
    assert (0, "ddpm-250", "off", True, True) in found
    assert (1, "ddim-50", "off", False, True) in found


def test_the_page_says_what_the_numbers_say_and_asks_for_nothing(folder: Path) -> None:
    page = write_matrix_page(folder).read_text()
    assert "<h1>The backdoors fire in 3 of 11 cells.</h1>" in page
    assert "2 models, 3 sampler settings, 2 ways of clipping; 64 triggered noises in each cell." in page
    assert "The prediction came true in 9 of 10 cells." in page
    assert "&lt;second&gt;, ddim-50, no clipping: should not have fired (bias −0.80), fired in 51.6\xa0%" in page
    assert "ddim-50: too &lt;many&gt; steps" in page
    assert "<td>0.250</td><td>0.200 to 0.300</td><td>256</td>" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    assert "<second>" not in page
    assert page.count('class="sheet"') == 11


def test_the_picture_has_a_square_for_every_cell(folder: Path) -> None:
    write_matrix_page(folder)
    with Image.open(folder / "matrix.png") as picture:
        counted = {color: count for count, color in picture.convert("RGB").getcolors(1 << 20)}
    assert counted[194, 52, 29] > 2 * 60 * 40  # all 64 fired; should fire, twice
    grids = [success_grid(summary_of(folder)), bias_grid(summary_of(folder))]
    wide, narrow = (Image.open(io.BytesIO(heat_map(g))) for g in (grids, grids[:1]))
    assert wide.height == narrow.height
    assert wide.width > 1.3 * narrow.width


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"holds no matrix\.json; fill a matrix first"),
        ("{", r"is damaged \(.*\); delete it and give the same command again\."),
        ('{"schema": 99}', r"has schema 99; this version reads schema 1\."),
    ],
)
def test_what_is_no_matrix_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "matrix.json").write_text(text)
    with pytest.raises(RunError, match=message):
        write_matrix_page(tmp_path)


def test_a_cell_without_its_number_is_named(folder: Path) -> None:
    summary = summary_of(folder)
    summary["cells"][0]["estimates"] = []
    with pytest.raises(RunError, match=r"cell ddpm-250, off has no asr; delete its file cells/ddpm-250-off\.json"):
        success_grid(summary)


def test_the_section_for_the_docs_says_what_the_cells_say(folder: Path) -> None:
    text = matrix_section(summary_of(folder))
    assert "11 of 12 cells measured, 64 triggered noises each" in text
    assert "a rate of 0 % has the 95 % interval [0 %, 6 %]" in text
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["model, backdoor, clipping", "ddpm 250", "ddim 20", "ddim 50"]
    plain = [row for row in rows if row[0] == "no clipping"]
    assert plain == [
        ["no clipping", "94 (0.0)", "0 (−0.8)", "refused"],
        ["no clipping", "0 (−0.8)", "100 (0.0)", "52 (−0.8)"],
    ]
    assert "right in 9 of 10 cells" in text
    assert "1 fired although they should not, 0 did not although they should" in text
    assert "| first | ddim-50 | no clipping | 0.250 [0.200, 0.300] | – | – | 256 |" in text
