from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
QUICKLY = (
    ('Recipe.load("demo", [', 'Recipe.load("smoke", ["training.max_train_steps=6", "sampling.num_inference_steps=5", '),
    ("range(16)", "range(2)"),
    ("num_inference_steps=50)", "num_inference_steps=5)"),
)


def test_quickstart_measures_something(tmp_path, capsys):
    runpy.run_path(str(EXAMPLES / "quickstart.py"))["main"](steps=6, runs=tmp_path)
    assert "asr" in capsys.readouterr().out


def test_own_attack_agrees_with_the_papers(capsys):
    from baddiffusion.attacks import ATTACKS

    try:
        runpy.run_path(str(EXAMPLES / "own_attack.py"))["main"]()
        assert "half-shift" in ATTACKS
    finally:
        ATTACKS._classes.pop("half-shift", None)
    assert "half-shift" in capsys.readouterr().out


@pytest.mark.parametrize("language", ["python"])
def test_the_readmes_code_runs(language, tmp_path, monkeypatch):
    text = (EXAMPLES.parent / "README.md").read_text()
    code = text.split(f"```{language}\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    for shown, quick in QUICKLY:
        assert shown in code
        code = code.replace(shown, quick)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["images"].pixels.shape == (2, 1, 32, 32)
