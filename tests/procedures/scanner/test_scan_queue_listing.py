"""Which models a list names, and that a folder is known again by what it holds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from baddiffusion.errors import CheckpointError, RecipeError
from baddiffusion.scan_queue import Entry, contents, folder_digest, read_folder, read_list
from baddiffusion.scan_queue.asking import Asked, Limits, read_duration, read_size
from baddiffusion.scan_queue.contents import TooSlow


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("a", "deep/checkpoint", "other/checkpoint", "with space"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(name)
    return tmp_path


def names(entries: list[Entry]) -> list[str]:
    return [entry.name for entry in entries]


class TestList:
    def test_paths_are_relative_to_the_list_and_a_line_that_stands_twice_is_one_model(self, models: Path):
        text = "\N{ZERO WIDTH NO-BREAK SPACE}# all\na\n\n  with space  # odd\r\na\npackaged:clean\nowner/name@v1.0\n"
        found = read_list(text, models, "list")
        assert names(found) == ["a", "with space", "packaged:clean", "owner/name@v1.0"]
        assert [entry.place for entry in found[:2]] == [models / "a", models / "with space"]
        assert found[2].place is not None
        assert (found[2].place / "model_index.json").exists()
        assert found[3].place is None

    def test_absolute_paths_are_named_by_as_much_as_tells_them_apart(self, models: Path):
        found = read_list(f"{models}/a\n{models}/deep/checkpoint\n{models}/other/checkpoint\n", models, "list")
        assert names(found) == ["a", "deep/checkpoint", "other/checkpoint"]
        assert len({entry.key for entry in found}) == 3
        assert str(models) not in "".join(entry.key + entry.name for entry in found)

    def test_bad_lines_are_told_with_their_numbers_all_at_once(self, models: Path):
        (models / "file").write_text("")
        (models / "loop").symlink_to("loop")
        text = "a\n\nnowhere\nfile\n# no\npackaged:cleen\nloop\nbad\x07bell\na/b/c\n"
        with pytest.raises(RecipeError) as caught:
            read_list(text, models, "models.txt")
        said = str(caught.value)
        assert said.startswith(
            "models.txt cannot be used; nothing was begun. line 3: 'nowhere' does not exist, and is "
        )
        assert "line 4: 'file' is no folder; give the folder of a checkpoint." in said
        assert "line 6: 'packaged:cleen' is not packaged; there are packaged:backdoored, packaged:clean." in said
        assert "line 7: 'loop' is no folder" in said
        assert "line 8: 'bad\\x07bell' holds characters that do not show" in said
        assert said.endswith("And 1 more lines.")

    def test_an_empty_list_is_a_mistake(self, tmp_path: Path):
        with pytest.raises(RecipeError, match=r"list names no model; write one a line"):
            read_list("# nothing\n\n", tmp_path, "list")

    def test_an_entry_travels_as_json(self, models: Path):
        for entry in read_list("a\nowner/name", models, "list"):
            assert Entry.of(entry.to_dict()) == entry

    def test_a_folder_stands_for_the_checkpoints_in_it(self, models: Path):
        (models / ".hidden").mkdir()
        (models / "out").mkdir()
        (models / "file").write_text("")
        found = read_folder(models, models / "out")
        assert names(found) == ["a", "deep/checkpoint", "other/checkpoint", "with space"]
        with pytest.raises(RecipeError, match="holds no folder"):
            read_folder(models / "a", models / "out")


class TestContents:
    def test_it_is_what_lies_in_the_folder_not_where_the_folder_lies(self, models: Path):
        shutil.copytree(models / "a", models / "b")
        assert folder_digest(models / "a") == folder_digest(models / "b")
        assert folder_digest(models / "a") != folder_digest(models / "deep")
        before = folder_digest(models / "b")
        (models / "b" / "config.json").write_text("b")
        assert folder_digest(models / "b") != before

    @pytest.mark.parametrize("change", ["rename", "add a folder", "add a link", "move the boundary"])
    def test_every_change_counts(self, models: Path, change: str):
        folder = models / "a"
        (folder / "x").write_text("1")
        before = folder_digest(folder)
        if change == "rename":
            (folder / "x").rename(folder / "y")
        elif change == "add a folder":
            (folder / "empty").mkdir()
        elif change == "add a link":
            (folder / "link").symlink_to("x")
        else:
            (folder / "x").write_text("")
            (folder / "x1").write_text("")
        assert folder_digest(folder) != before

    def test_links_in_circles_pipes_and_links_that_leave_are_not_followed(self, models: Path):
        folder = models / "a"
        (folder / "one").symlink_to("two")
        (folder / "two").symlink_to("one")
        (folder / "self").symlink_to(".")
        (folder / "out").symlink_to(models / "deep")
        os.mkfifo(folder / "pipe")
        secret = models / "secret"
        secret.write_text("1")
        (folder / "leaves").symlink_to(secret)
        before = folder_digest(folder)
        secret.write_text("22")
        (models / "deep" / "more").write_text("")
        assert folder_digest(folder) == before

    def test_what_a_link_inside_leads_to_counts(self, models: Path):
        """As in the cache of the hub, where a snapshot is made of links into the blobs beside it."""
        blob, snapshot = models / "repo" / "blobs" / "x", models / "repo" / "snapshots" / "abc"
        blob.parent.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        blob.write_text("1")
        (snapshot / "config.json").symlink_to("../../blobs/x")
        before = folder_digest(snapshot)
        blob.write_text("22")
        assert folder_digest(snapshot) != before

    def test_a_folder_that_cannot_be_read_is_told(self, models: Path):
        (models / "loop").symlink_to("loop")
        with pytest.raises(CheckpointError, match="the folder cannot be read"):
            folder_digest(models / "loop")
        with pytest.raises(CheckpointError, match=r"the folder cannot be read \(No such file or directory\)"):
            folder_digest(models / "nowhere")

    def test_reading_has_a_limit(self, models: Path, monkeypatch: pytest.MonkeyPatch):
        (models / "a" / "large").write_bytes(b"1" * 100)
        monkeypatch.setattr(contents, "BLOCK", 1)
        with pytest.raises(TooSlow, match="reading its files took longer than the time limit"):
            folder_digest(models / "a", 1e-9)

    def test_a_file_is_read_once_in_a_run(self, models: Path, monkeypatch: pytest.MonkeyPatch):
        os.link(models / "a" / "config.json", models / "a" / "same")
        folder_digest(models / "a")
        monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("it was read again"))
        folder_digest(models / "a")


class TestAsking:
    def test_what_is_asked_decides_the_key(self):
        keys = {
            Asked().key,
            Asked(seed=1).key,
            Asked(budget=700).key,
            Asked(base="x", base_name="x", base_digest="1").key,
            Asked(base="x", base_name="x", base_digest="2").key,
        }
        assert len(keys) == 5
        assert Asked(base="/here", base_digest="1").key == Asked(base="/there", base_digest="1").key
        assert "/here" not in str(Asked(base="/here", base_name="here").told())

    def test_only_more_of_what_was_missing_is_another_try(self):
        stopped = Limits(60.0, 1 << 30).to_dict()
        assert Limits(61.0).allow_more(stopped, "seconds")
        assert Limits(None).allow_more(stopped, "seconds")
        assert not Limits(60.0, 1 << 33).allow_more(stopped, "seconds")
        assert Limits(1.0, 1 << 33).allow_more(stopped, "memory")

    @pytest.mark.parametrize(
        ("text", "read", "said"),
        [
            ("5", read_duration, "--timeout is '5'; give a time such as 90s, 30m or 2h."),
            ("0s", read_duration, "--timeout is '0s'"),
            ("much", read_size, "--memory is 'much'; give an amount of memory such as 8g."),
            ("100m", read_size, "--memory is '100m'; the program itself takes about half"),
        ],
        ids=["no unit", "nothing", "no number", "too little"],
    )
    def test_a_limit_that_is_none_is_told(self, text, read, said):
        with pytest.raises(RecipeError) as caught:
            read(text)
        assert said in str(caught.value)
