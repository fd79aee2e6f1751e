"""report in all its forms; what a page holds is tested beside the pages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def pair(finished, tmp_path: Path) -> list[Path]:
    """The same run in two folders, without pages."""
    paths = [tmp_path / "runs" / name for name in ("one", "two")]
    for path in paths:
        shutil.copytree(finished[0], path, ignore=shutil.ignore_patterns("report.html"))
    return paths


def test_several_runs_stand_side_by_side(ask, pair: list[Path], tmp_path: Path):
    page = tmp_path / "runs" / "comparison.html"
    assert ask("report", *pair).out == f"page  {page}\n"
    text = page.read_text()
    assert "report of 2 runs" in text
    assert 'data-order="one"' in text
    assert 'data-order="two"' in text
    assert "baddiffusion report runs/one runs/two" in text


def test_the_page_goes_where_it_is_wanted(ask, pair: list[Path], tmp_path: Path):
    for folders in (pair[:1], pair):
        page = tmp_path / f"{len(folders)}.html"
        assert ask("report", *folders, "-o", page).out == f"page  {page}\n"
        assert page.read_text().startswith("<!doctype html>")
    assert not (pair[0] / "report.html").exists()


def test_the_index_makes_the_pages_that_it_links(ask, pair: list[Path], tmp_path: Path):
    told = ask("report", "--index", tmp_path / "runs")
    assert told.out == f"page  {tmp_path / 'runs' / 'index.html'}\n"
    assert told.err.splitlines() == [f"written: {path / 'report.html'}" for path in pair]
    text = (tmp_path / "runs" / "index.html").read_text()
    assert "<h1>2 runs</h1>" in text
    assert 'href="one/report.html"' in text
    assert ask("report", "--index", tmp_path / "runs").err == ""


@pytest.mark.parametrize("tokens", [(), ("x", "--index", "y"), ("--index", "y", "-o", "z.html")])
def test_report_takes_folders_or_an_index(ask, tokens: tuple[str, ...]):
    told = ask("report", *tokens)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("error: report needs the folder of a run or sweep, or several runs, with -o FILE or")
