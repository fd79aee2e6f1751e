import sys

import pytest
from rich.progress import Progress
from rich.text import Text

from baddiffusion.cli.naming import component_table, override
from baddiffusion.cli.printing import count, duration, table
from baddiffusion.cli.progress import Bar, Lines, watching
from baddiffusion.errors import RecipeError
from baddiffusion.recipe import Recipe


class TestNaming:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("box", {"name": "box"}),
            ("box:side_px=8", {"name": "box", "side_px": 8}),
            ("box:side_px=8,value=-0.5", {"name": "box", "side_px": 8, "value": -0.5}),
            ("image:path=a b/cat.png", {"name": "image", "path": "a b/cat.png"}),
            ("image:path=C:/cat.png", {"name": "image", "path": "C:/cat.png"}),
            ('image:path="1"', {"name": "image", "path": "1"}),
        ],
    )
    def test_component(self, text: str, expected: dict):
        assert component_table(text) == expected

    @pytest.mark.parametrize("text", ["box:side_px", "box:", "box:=8", "box:side_px=8,"])
    def test_a_field_without_a_value_is_refused(self, text: str):
        with pytest.raises(RecipeError, match="is not key=value; write for example box:side_px=8"):
            component_table(text)

    def test_an_override_gives_the_recipe_the_very_value(self):
        given = [
            override("trigger", {"name": "box", "side_px": 4, "value": 0.25}),
            override("name", 'a.b-"c"'.replace('"', "")),
            override("training.use_ema", True),
            override("training.learning_rate", 1e-05),
            override("model.base", "17"),
        ]
        recipe = Recipe.load("smoke", given)
        assert recipe.trigger.to_dict() == {
            "name": "box", "side_px": 4, "value": 0.25, "top_px": None, "left_px": None,
        }  # fmt: skip
        assert (recipe.name, recipe.training.use_ema, recipe.training.learning_rate) == ("a.b-c", True, 1e-5)
        assert recipe.model.base == "17"


class TestPrinting:
    def test_columns_are_aligned_and_short_rows_stay_short(self):
        assert table([("a", "1", "x"), ("group",), ("bbb", "22", "y")]) == "a      1   x\ngroup\nbbb    22  y"
        assert table([]) == ""

    @pytest.mark.parametrize(
        ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (9000, "2.5 h")]
    )
    def test_duration(self, seconds: float, words: str):
        assert duration(seconds) == words

    def test_count(self):
        assert [count(n) for n in (7, 1000, 1234567)] == ["7", "1 000", "1 234 567"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestLines:
    def test_at_most_one_line_in_ten_seconds_with_what_is_left(self):
        written, clock = [], Clock()
        lines = Lines(written.append, clock)
        lines.stage("train", 1000, "images")
        for second in range(25):
            clock.now = float(second)
            lines.advance(100 + 10 * second, "loss 0.1")
        assert written == [
            "train: 100 of 1 000 images  loss 0.1",
            "train: 200 of 1 000 images  loss 0.1  80 s left",
            "train: 300 of 1 000 images  loss 0.1  70 s left",
        ]

    def test_a_new_stage_measures_its_own_rate(self):
        written, clock = [], Clock()
        lines = Lines(written.append, clock)
        lines.stage("train", 10, "images")
        lines.advance(10)
        clock.now = 100.0
        lines.stage("sample", 40, "images")
        lines.advance(0)
        clock.now = 110.0
        lines.advance(20)
        assert written[1:] == ["sample: 0 of 40 images", "sample: 20 of 40 images  10 s left"]


class TestBar:
    def test_on_a_terminal_stages_become_bars_on_stderr(self, monkeypatch: pytest.MonkeyPatch, capsys):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with watching() as watcher:
            assert isinstance(watcher, Bar)
            watcher.stage("train", 100, "images")
            watcher.advance(40)
            watcher.stage("sample [clean]", 8, "images")
            watcher.advance(8)
        told = capsys.readouterr()
        assert told.out == ""
        assert "100/100" in told.err  # a stage that another one follows is complete
        assert "sample [clean]" in told.err  # no markup

    def test_what_is_said_about_a_stage_stands_below_until_it_ends(self):
        progress, note = Progress(), Text()
        bar = Bar(progress, note)
        bar.stage("train", 100, "images")
        bar.advance(40, "loss clean 0.0312  poisoned 0.0471  850 images/s")
        assert (progress.tasks[0].completed, note.plain) == (40, "loss clean 0.0312  poisoned 0.0471  850 images/s")
        bar.stage("sample", 8, "images")
        assert (progress.tasks[0].completed, progress.tasks[1].completed, note.plain) == (100, 0, "")

    def test_elsewhere_lines(self, capsys):
        with watching() as watcher:
            watcher.stage("train", 100, "images")
            watcher.advance(40)
        assert capsys.readouterr().err == "train: 40 of 100 images\n"
