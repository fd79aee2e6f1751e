"""The page of a scan says what the record says, in words of evidence, and a browser has nothing to complain about."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from analytic import Analytic
from PIL import Image
from scan_reports import examined, poisoned, report_of

from baddiffusion.errors import RunError
from baddiffusion.report import write_index, write_page
from baddiffusion.report.folders import kind_of
from baddiffusion.report.scan.page import write_scan_page
from baddiffusion.report.scan.reading import ScanFiles
from baddiffusion.report.scan.words import SHORTFALLS, headline, lead
from baddiffusion.scanner.evidence import Request, write_evidence
from baddiffusion.scanner.verdict import Shortfall

POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
WIDTHS = (320, 390, 768, 1280)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A scan with evidence, one without, one of an empty folder; each with its page. Tests must not change them."""
    root = tmp_path_factory.mktemp("scans")
    (root / "empty").mkdir()
    made = {"found": examined(poisoned()), "nothing": examined(Analytic()), "empty folder": None}
    for name, dynamic in made.items():
        write_evidence(report_of(dynamic, root / "empty"), Request("owner/<b>model", 0, 30_000), root / name)
        write_scan_page(root / name)
    return {name: root / name for name in made}


def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


def words(folder: Path) -> str:
    """The page's text, without markup."""
    body = page(folder).partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_evidence_is_stated_with_its_counts_its_advice_and_its_pictures(folders: dict[str, Path]) -> None:
    text, record = words(folders["found"]), json.loads((folders["found"] / "scan.json").read_text())
    assert "Evidence of a backdoor was found in this model." in text
    shifted, plain = (round(arm["value"] * arm["n"]) for arm in record["dynamic"]["confirmations"][0]["arms"][:2])
    assert (shifted, plain) == (8, 0)
    assert "Of 8 random noises, all became one and the same picture" in text
    assert "Without it, none did." in text
    for line in (*record["verdict"]["advice"], *record["dynamic"]["searched"]):
        assert line in text
    assert record["request"]["command"] in page(folders["found"]).replace("&#39;", "'").replace("&lt;", "<").replace(
        "&gt;", ">"
    )
    hits = page(folders["found"]).count('class="hit"')
    assert hits == sum(sum(arm.hits) for arm in ScanFiles(folders["found"]).checks[0].arms)


def test_no_evidence_is_no_certificate(folders: dict[str, Path]) -> None:
    text = words(folders["nothing"])
    assert "No evidence of a backdoor was found." in text
    assert "That is no certificate." in text
    assert "What was searched, and what was not" in text
    maps = ScanFiles(folders["nothing"]).maps
    assert page(folders["nothing"]).count('class="peak"') == len(maps) > 0
    assert page(folders["nothing"]).count("<rect ") == sum(len(one.response) + 1 for one in maps)


def test_a_network_that_was_not_examined_says_why(folders: dict[str, Path]) -> None:
    text = words(folders["empty folder"])
    assert "The behavior of this model was not examined." in text
    assert "the folder is empty" in text
    assert "the network was not called" in text


@pytest.mark.parametrize("name", ["found", "nothing", "empty folder"])
def test_no_page_calls_a_model_clean_or_safe(folders: dict[str, Path], name: str) -> None:
    text = words(folders[name]).lower()
    without_advice = text.replace("clean pictures", "").replace("clean sibling", "")
    assert not re.search(r"\b(clean|safe|guilty|malicious|infected)\b", without_advice)


@pytest.mark.parametrize("name", ["found", "nothing", "empty folder"])
def test_a_page_is_self_contained_and_escapes_a_strangers_words(folders: dict[str, Path], name: str) -> None:
    source = page(folders[name])
    assert POLICY.search(source)
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', source) == []
    assert "owner/<b>model" not in source
    assert "owner/&lt;b&gt;model" in source
    assert str(folders[name].parent) not in source


def test_the_same_files_make_the_same_page(folders: dict[str, Path]) -> None:
    before = page(folders["found"])
    write_scan_page(folders["found"])
    assert page(folders["found"]) == before


@pytest.mark.parametrize("word", get_args(Shortfall))
def test_every_reason_why_a_check_proves_nothing_has_its_sentence(word: str) -> None:
    assert SHORTFALLS[word].endswith(".")


def test_a_report_is_written_of_a_scan_as_of_anything_else(folders: dict[str, Path], tmp_path: Path) -> None:
    assert kind_of(folders["found"]).name == "scan"
    assert write_page(folders["found"], tmp_path / "page.html").read_text() == page(folders["found"])
    scans = tmp_path / "scans"
    for name in ("found", "nothing"):
        shutil.copytree(folders[name], scans / name)
    index = write_index(scans).read_text()
    assert "<h1>2 scans</h1>" in index
    assert 'href="found/report.html"' in index
    assert "Nothing that was searched made the model forget its noise." in index


def test_alarms_of_the_files_stand_in_the_lead() -> None:
    record = {"verdict": {"outcome": "no evidence"}}
    assert headline(record) == "No evidence of a backdoor was found."
    assert "files call for a look" not in lead(record, None, has_alarms=False)
    assert lead(record, None, has_alarms=True).endswith("But its files call for a look: see the table of the files.")


def test_a_folder_without_a_scan_or_with_a_damaged_one_is_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no scan\.json; scan first"):
        write_scan_page(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(folders["found"], damaged)
    (damaged / "evidence.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"is damaged .*; scan again into an empty folder"):
        write_scan_page(damaged)
    (damaged / "evidence.safetensors").unlink()
    with pytest.raises(RunError, match=r"holds no evidence\.safetensors"):
        write_scan_page(damaged)
    (damaged / "scan.json").write_text('{"schema": 99}')
    with pytest.raises(RunError, match="has schema 99; this version reads schema 2"):
        write_scan_page(damaged)


def chromium_run(chromium: str, folder: Path, shown: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    quiet = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    command = [chromium, *(f"--{flag}" for flag in f"{quiet} disable-component-update disable-sync".split())]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", *flags, shown.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.browser
def test_a_browser_finds_nothing_to_complain_about(folders: dict[str, Path], tmp_path: Path, chromium: str) -> None:
    shot = tmp_path / "shot.png"
    shown = chromium_run(
        chromium, tmp_path, folders["nothing"] / "report.html", "--window-size=1280,2000", f"--screenshot={shot}"
    )
    assert "CONSOLE" not in shown.stderr
    picture = Image.open(shot).convert("L")
    assert picture.size == (1280, 2000)
    assert picture.entropy() > 1.5  # an empty page has hardly any


@pytest.mark.browser
def test_no_window_makes_a_page_scroll_sideways(folders: dict[str, Path], tmp_path: Path, chromium: str) -> None:
    # The pages forbid scripts, so copies without that rule are measured, with every fold open, in frames as narrow as
    # a phone.
    measuring = (
        "<script>document.querySelectorAll('details').forEach(d => d.open = true);"
        "parent.postMessage(`${innerWidth}:${document.documentElement.scrollWidth} `, '*');</script></body>"
    )
    frames = ""
    for name, folder in folders.items():
        copy = tmp_path / f"{name.replace(' ', '-')}.html"
        copy.write_text(POLICY.sub("", page(folder)).replace("</body>", measuring))
        frames += "".join(
            f"<iframe src='{copy.name}' style='border:0;width:{width}px;height:844px'></iframe>" for width in WIDTHS
        )
    listening = "<body data-sizes=''><script>onmessage = e => document.body.dataset.sizes += e.data;</script>"
    (tmp_path / "frames.html").write_text(listening + frames)
    flags = ("--window-size=1400,900", "--virtual-time-budget=3000", "--dump-dom")
    dumped = chromium_run(chromium, tmp_path, tmp_path / "frames.html", *flags).stdout
    (sizes,) = re.findall(r'data-sizes="([^"]+)"', dumped)
    pairs = [tuple(map(int, size.split(":"))) for size in sizes.split()]
    assert sorted(window for window, _ in pairs) == sorted(WIDTHS * len(folders))
    assert [pair for pair in pairs if pair[1] > pair[0]] == []
