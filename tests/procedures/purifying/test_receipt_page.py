"""The receipt says what was measured, promises nothing, and its page is whole."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from test_purify import done as done
from test_purify import model as model
from test_purify import orders as orders
from test_purify import scanned as scanned

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.errors import RunError
from baddiffusion.purifying import Purification, keep_purified
from baddiffusion.report.purify.page import write_receipt_page
from baddiffusion.report.purify.section import purify_section
from baddiffusion.report.purify.words import GUARANTEE, HEADLINES, receipt_text

POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@pytest.fixture(scope="module")
def folder(done: tuple[Purification, list[str]], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "out"
    keep_purified(Checkpoint.open(model), done[0], path)
    write_receipt_page(path)
    return path


def words(folder: Path) -> str:
    body = (folder / "receipt.html").read_text().partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_page_says_what_the_receipt_says(folder: Path):
    text, receipt = words(folder), json.loads((folder / "receipt.json").read_text())
    assert HEADLINES[receipt["outcome"]] in text
    assert "none of 4 fresh noises became the recovered picture under the ancestral sampler before the repair" in text
    assert GUARANTEE in text
    for part in ("fine-tuning-short", "elijah-removal-short", "mid_block", receipt["digest"], "kd_efflite0"):
        assert part in text
    assert "Clipping (the predicted picture is clipped" in text
    assert len(re.findall(r'src="data:image/png', (folder / "receipt.html").read_text())) == 6


def test_text_and_page_promise_nothing(folder: Path):
    for text in (words(folder), receipt_text(json.loads((folder / "receipt.json").read_text()))):
        assert not re.search(r"\b(safe|guilty|malicious|infected)\b|is clean", text.lower())


def test_the_text_has_every_number(folder: Path):
    text = receipt_text(json.loads((folder / "receipt.json").read_text()))
    assert text.startswith("not verified: model\n")
    assert "scan before: backdoored" in text
    assert "scan after: no evidence" in text
    assert "before none of 4 [0\N{NO-BREAK SPACE}%, 49\N{NO-BREAK SPACE}%], after none of 4" in text
    assert "MSE to the recovered picture: ordinary pictures of the model itself, ODE sampler" in text


def test_the_page_is_self_contained_and_made_again_the_same(folder: Path):
    source = (folder / "receipt.html").read_text()
    assert POLICY.search(source)
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', source) == []
    write_receipt_page(folder)
    assert (folder / "receipt.html").read_text() == source


def test_a_folder_without_a_receipt_or_with_a_damaged_one_is_an_error(tmp_path: Path):
    with pytest.raises(RunError, match=r"holds no receipt\.json; run baddiffusion purify first"):
        write_receipt_page(tmp_path)
    (tmp_path / "receipt.json").write_text("{")
    with pytest.raises(RunError, match=r"receipt\.json is damaged \(.*\); purify again into another folder"):
        write_receipt_page(tmp_path)
    for text, found in (("[]", "None"), ('{"schema": 7}', "7")):
        (tmp_path / "receipt.json").write_text(text)
        with pytest.raises(RunError, match=f"has schema {found}; this version reads schema 2"):
            write_receipt_page(tmp_path)


def test_the_section_has_a_row_for_each_repair_and_one_for_none(folder: Path):
    receipt = json.loads((folder / "receipt.json").read_text())
    trigger = {"name": "box", "side_px": 8, "value": 0.0}
    truth = [{"name": "baddiffusion", "sampler": "ode"}, trigger, {"name": "hat"}]
    named = {**receipt, "named": "a-model", "card": truth}
    nothing = {**receipt, "named": "clean", "card": None, "outcome": "nothing to repair", "compared": []}
    text = purify_section({"device": "cpu", "threads": 1, "torch": "2", "receipts": [named, nothing]})
    assert "**`a-model`** (baddiffusion, sampler ode: a grey box of 8×8 pixels → the hat), scanned as" in text
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows == [
        "| repair",
        "| ---",
        "| none",
        "| `shift-equivariance-short`",
        "| `fine-tuning-short` on the model's own pictures",
        "| `elijah-removal-short` with the recovered shift, on the model's own pictures; without its warm-up",
    ]
    assert text.endswith("**`clean`** (no backdoor), scanned as backdoored: **nothing to repair**.")


@pytest.mark.browser
def test_a_browser_finds_nothing_to_complain_about_and_no_phone_scrolls_sideways(
    folder: Path, tmp_path: Path, chromium: str
):
    measuring = (
        "<script>parent.postMessage(`${innerWidth}:${document.documentElement.scrollWidth} `, '*');</script></body>"
    )
    (tmp_path / "copy.html").write_text(
        POLICY.sub("", (folder / "receipt.html").read_text()).replace("</body>", measuring)
    )
    frames = "".join(
        f"<iframe src='copy.html' style='border:0;width:{width}px;height:844px'></iframe>" for width in (320, 390, 1280)
    )
    listening = "<body data-sizes=''><script>onmessage = e => document.body.dataset.sizes += e.data;</script>"
    (tmp_path / "frames.html").write_text(listening + frames)
    quiet = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-sync"
    command = [chromium, *(f"--{flag}" for flag in quiet.split()), f"--user-data-dir={tmp_path / 'profile'}"]
    shot = tmp_path / "shot.png"
    flags = ("--enable-logging=stderr", "--window-size=1280,1600", f"--screenshot={shot}")
    shown = subprocess.run(
        [*command, *flags, (folder / "receipt.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in shown.stderr
    assert Image.open(shot).convert("L").entropy() > 1.5
    flags = ("--window-size=1400,900", "--virtual-time-budget=3000", "--dump-dom")
    dumped = subprocess.run(
        [*command, *flags, (tmp_path / "frames.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    (sizes,) = re.findall(r'data-sizes="([^"]+)"', dumped)
    pairs = [tuple(map(int, size.split(":"))) for size in sizes.split()]
    assert sorted(window for window, _ in pairs) == [320, 390, 1280]
    assert [pair for pair in pairs if pair[1] > pair[0]] == []
