from pathlib import Path

import pytest

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.models import build, unet_config
from baddiffusion.pipeline import FRESH_SCHEDULER

SCHEDULER = {**FRESH_SCHEDULER, "num_train_timesteps": 100}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained 8×8 networks, and one of 16×16."""
    root = tmp_path_factory.mktemp("models")
    for name, size, seed in (("suspect", 8, 0), ("a", 8, 1), ("b", 8, 2), ("large", 16, 3)):
        Checkpoint.write(root / name, build(unet_config("micro", (1, size, size)), seed=seed), SCHEDULER)
    return root


def test_siblings_and_a_deep_search_are_recorded_and_repeatable(ask, models: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(models)
    flags = ("--budget", "700", "--deep", "collapse", "--deep-budget", "100", "--siblings", "a", "large", "suspect")
    told = ask("scan", "suspect", *flags, "-o", tmp_path / "out", "--json")
    record = told.json()
    assert "The search by gradients, if needed: at most 100 more, about " in told.err
    assert "3 siblings are scanned alike: at most 2 400 more, about " in told.err
    asked = record["request"]
    assert (asked["siblings"], asked["deep"], asked["deep_budget"]) == (["a", "large", "suspect"], "collapse", 100)
    assert asked["command"].endswith("--deep collapse --deep-budget 100 --siblings a large suspect")
    beside = record["dynamic"]["siblings"]
    assert [missing["what"] for missing in beside["not_used"]] == ["large", "suspect", "a"]
    assert (record["verdict"]["outcome"], record["dynamic"]["deep"]["searches"]) == ("inconclusive", [])
    again = ask(*asked["command"].split()[1:], "--json").json()
    assert again["dynamic"] == record["dynamic"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>large</b>, as a sibling: it paints pictures of 1×16×16" in page


def test_a_deep_search_alone_is_the_best_one(ask, models: Path):
    told = ask("scan", models / "suspect", "--deep", "--dry-run")
    assert (told.code, told.out) == (0, "")
    assert "if needed: at most 30 000 more" in told.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--deep", "guessing"),
            "--deep is 'guessing'; it takes one of elijah, terd, collapse, far-field, or nothing.",
        ),
        (("--deep", "elijah", "terd"), "--deep is 'elijah terd'; it takes one of"),
        (("--deep-budget", "100"), "--deep-budget is 100; it must be at least 1, and it needs --deep."),
        (("--deep", "--deep-budget", "0"), "--deep-budget is 0; it must be at least 1"),
        (("--siblings",), "--siblings names no model; give at least one."),
        (("--siblings", "nowhere"), "'nowhere' does not exist"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(ask, models: Path, flags: tuple[str, ...], said: str):
    told = ask("scan", models / "suspect", *flags)
    assert (told.code, told.out) == (2, "")
    assert said in told.err.replace("\n", " ")


@pytest.mark.parametrize("flags", [("--deep",), ("--deep-budget", "9"), ("--siblings", "a")], ids=str)
def test_a_list_takes_none_of_it(ask, models: Path, flags: tuple[str, ...]):
    told = ask("scan", "--from", models, *flags)
    assert told.code == 2
    assert f"{flags[0]} is about one model; --from takes none of it." in told.err
