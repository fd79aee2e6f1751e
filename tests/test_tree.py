from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "baddiffusion").rglob("*.py"))
EVERYTHING = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
LONGEST_FILE, LONGEST_FUNCTION = 320, 70


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def comments(path: Path) -> list[tuple[str, bool]]:
    """Every comment, and whether it has its line to itself: behind code stands a note on it, formulas included."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    found = [token for token in tokens if token.type == tokenize.COMMENT]
    return [(token.string.lstrip("#: "), token.line.lstrip().startswith("#")) for token in found]


def is_code(comment: str) -> bool:
    """Whether a comment is a statement that somebody switched off; words and ``noqa: X`` parse too, but do nothing."""
    try:
        (statement,) = ast.parse(comment).body
    except (SyntaxError, ValueError):
        return False
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call | ast.Await | ast.Yield)
    return not isinstance(statement, ast.AnnAssign) or statement.value is not None


def test_the_tree_is_looked_at() -> None:
    assert len(SOURCES) > 30
    assert "src/baddiffusion/errors.py" in map(named, SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_page_fits_on_a_page(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_FILE
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_file_is_named_after_its_idea(path: Path) -> None:
    nameless = {"utils", "util", "helpers", "helper", "base", "common", "manager", "misc"}
    assert not nameless & set(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", EVERYTHING, ids=named)
def test_nothing_is_left_over(path: Path) -> None:
    marker = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b")
    for comment, alone in comments(path):
        assert not marker.search(comment), comment
        assert not (alone and is_code(comment)), comment


@pytest.mark.parametrize(
    ("comment", "code"),
    [
        ("x = 3", True),
        ("model.train()", True),
        ("return x", True),
        ("import os", True),
        ("noqa: E731", False),
        ("type: ignore[misc]", False),
        ("a reason, in words", False),
        ("Reasons", False),
        ("127.5 goes to the even 128", False),
    ],
)
def test_code_in_comments_is_recognized(comment: str, code: bool) -> None:
    assert is_code(comment) is code


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
