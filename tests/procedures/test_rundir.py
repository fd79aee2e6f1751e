from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from baddiffusion import rundir
from baddiffusion.errors import RunError
from baddiffusion.rundir import EventLog, RunDir, file_digest, write_atomic

TOML = 'name = "mine"\n'


def started(tmp_path: Path) -> RunDir:
    return RunDir.start(tmp_path, "mine", "0123abcd", TOML)


def with_stage(run: RunDir, inputs: dict | None = None) -> Path:
    output = run.path / "samples" / "a.txt"
    write_atomic(output, "pictures")
    run.finish("sample", inputs or {"train": "d1"}, [output], 1.234)
    return output


# -- files that appear whole or not at all -----------------------------------------------------------------------------


def test_writing_makes_the_folder_and_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b.txt", "text")
    write_atomic(tmp_path / "a" / "b.txt", b"bytes")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"bytes"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.txt"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    write_atomic(file, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(
        RunError,
        match=r"a.txt could not be written \(No space left on device\); make room or choose another folder.$",
    ):
        write_atomic(file, "new")
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"could not be written \(.+\); make room or choose another folder.$"):
        write_atomic(tmp_path / "file" / "a.txt", "x")


def test_a_digest_sees_names_and_contents(tmp_path: Path) -> None:
    write_atomic(tmp_path / "d" / "a", "1")
    write_atomic(tmp_path / "d" / "sub" / "b", "2")
    digest = file_digest(tmp_path / "d")
    assert len(digest) == 16
    assert file_digest(tmp_path / "d") == digest
    write_atomic(tmp_path / "d" / "a", "3")
    changed = file_digest(tmp_path / "d")
    write_atomic(tmp_path / "d" / "a", "1")
    (tmp_path / "d" / "sub" / "b").rename(tmp_path / "d" / "sub" / "c")
    renamed = file_digest(tmp_path / "d")
    assert len({digest, changed, renamed}) == 3
    assert file_digest(tmp_path / "d" / "a") != file_digest(tmp_path / "d" / "sub" / "c")


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_new_run_records_what_it_is(tmp_path: Path) -> None:
    run = started(tmp_path)
    assert run.path == tmp_path / "mine-0123abcd"
    assert (run.path / "recipe.toml").read_text() == TOML
    record = json.loads((run.path / "run.json").read_text())
    assert record["status"] == "running"
    assert record["schema"] == 1
    assert record["stages"] == {}
    assert record["error"] is None
    assert {"python", "torch", "diffusers", "baddiffusion"} <= set(record["versions"])
    assert str(tmp_path) not in json.dumps({k: v for k, v in record.items() if k != "argv"})


def test_a_stage_is_done_only_when_it_is_recorded(tmp_path: Path) -> None:
    run = started(tmp_path)
    write_atomic(run.path / "samples" / "a.txt", "pictures")
    assert not run.is_done("sample", {"train": "d1"})
    with_stage(run)
    assert run.is_done("sample", {"train": "d1"})
    assert not run.is_done("evaluate", {})
    again = started(tmp_path)
    assert again.is_done("sample", {"train": "d1"})
    entry = RunDir.read(run.path).record["stages"]["sample"]
    assert entry["outputs"] == {"samples/a.txt": file_digest(run.path / "samples" / "a.txt")}
    assert entry["elapsed_s"] == 1.23


def test_inputs_survive_the_record(tmp_path: Path) -> None:
    inputs = {"recipe": "d", "base": None, "clips": ["off", "x0"], "n": 3, "nested": {"a": 1.5}}
    with_stage(started(tmp_path), inputs)
    assert started(tmp_path).is_done("sample", inputs)


def test_changed_inputs_are_an_error_never_stale_reuse(tmp_path: Path) -> None:
    run = started(tmp_path)
    with_stage(run)
    with pytest.raises(
        RunError,
        match=r"^stage sample of .*mine-0123abcd was made from other inputs; nothing is overwritten. Start a new run.$",
    ):
        run.is_done("sample", {"train": "d2"})


@pytest.mark.parametrize("change", ["edited", "removed"])
def test_a_changed_output_is_an_error(change: str, tmp_path: Path) -> None:
    run = started(tmp_path)
    output = with_stage(run)
    if change == "edited":
        output.write_text("others")
    else:
        output.unlink()
    with pytest.raises(RunError, match=r"a.txt was changed or removed after the run wrote it; start a new run.$"):
        run.is_done("sample", {"train": "d1"})


def test_an_edited_recipe_is_an_error(tmp_path: Path) -> None:
    run = started(tmp_path)
    (run.path / "recipe.toml").write_text(TOML + "seed = 1\n")
    with pytest.raises(
        RunError, match=r"recipe.toml was edited after the run was made; move .* away and start again.$"
    ):
        started(tmp_path)


def test_a_folder_that_is_no_run_is_not_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "mine-0123abcd"
    write_atomic(folder / "holiday.jpg", "mine")
    with pytest.raises(
        RunError, match=r"exists but is not a run \(no recipe.toml\); move it away or choose another --runs"
    ):
        started(tmp_path)
    assert [p.name for p in folder.iterdir()] == ["holiday.jpg"]


def test_a_run_that_was_killed_before_its_first_file_stood_can_be_started_again(tmp_path: Path) -> None:
    folder = tmp_path / "mine-0123abcd"
    folder.mkdir()
    (folder / ".recipe.toml.4711").write_text("half")
    assert started(tmp_path).record["status"] == "running"


def test_a_run_that_was_killed_before_its_record_stood_can_be_started_again(tmp_path: Path) -> None:
    write_atomic(tmp_path / "mine-0123abcd" / "recipe.toml", TOML)
    assert started(tmp_path).record["stages"] == {}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "null", '{"stages": {}}', '{"schema": 1}', '{"schema": 1, "stages": []}', "\x00\xff"],
    ids=repr,
)
def test_a_damaged_record_is_an_error(content: str, tmp_path: Path) -> None:
    run = started(tmp_path)
    (run.path / "run.json").write_bytes(content.encode("latin-1"))
    for opening in (lambda: RunDir.read(run.path), lambda: started(tmp_path)):
        with pytest.raises(RunError, match=r"run.json is damaged \(.+\); delete the run and start it again.$"):
            opening()


def test_the_record_of_another_schema_is_an_error(tmp_path: Path) -> None:
    run = started(tmp_path)
    write_atomic(run.path / "run.json", json.dumps({**run.record, "schema": 2}))
    with pytest.raises(RunError, match=r"run.json has schema 2; this version reads schema 1. Start the run again.$"):
        RunDir.read(run.path)


def test_reading_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(
            RunError, match=r"is not a run directory \(no run.json\); give a folder that `baddiffusion run` made.$"
        ):
            RunDir.read(path)


# -- how it ended ------------------------------------------------------------------------------------------------------


def test_a_run_that_ends_well_is_done(tmp_path: Path) -> None:
    run = started(tmp_path)
    with run.recording():
        assert RunDir.read(run.path).record["status"] == "running"
    assert RunDir.read(run.path).record["status"] == "done"


@pytest.mark.parametrize(
    ("raised", "status", "error"),
    [
        (KeyboardInterrupt(), "interrupted", None),
        (RunError("no room"), "failed", "RunError: no room"),
        (ZeroDivisionError("bug"), "failed", "ZeroDivisionError: bug"),
    ],
    ids=["ctrl-c", "the user's mistake", "a bug"],
)
def test_a_run_that_breaks_off_says_how_and_can_go_on(
    raised: BaseException, status: str, error: str | None, tmp_path: Path
) -> None:
    run = started(tmp_path)
    with_stage(run)
    with pytest.raises(type(raised)), run.recording():
        raise raised
    record = RunDir.read(run.path).record
    assert (record["status"], record["error"]) == (status, error)
    again = started(tmp_path)
    assert (again.record["status"], again.record["error"]) == ("running", None)
    assert again.is_done("sample", {"train": "d1"})


def test_a_package_without_a_version_is_recorded_as_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rundir, "PACKAGES", ("a-package-that-nobody-has",))
    assert started(tmp_path).record["versions"]["a-package-that-nobody-has"] == "not installed"


def test_a_machine_without_git_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert started(tmp_path).record["git_commit"] is None


# -- one process at a time ---------------------------------------------------------------------------------------------

BUSY = r"^another process is working on .*mine-0123abcd; wait for it, or stop it.$"


def test_a_second_process_is_turned_away_and_changes_nothing(tmp_path: Path) -> None:
    first, second = started(tmp_path), started(tmp_path)
    entered = []
    with first.recording():
        with_stage(first)
        record = (first.path / "run.json").read_bytes()
        with pytest.raises(RunError, match=BUSY), second.recording():
            entered.append(second)
        with pytest.raises(RunError, match=BUSY):
            started(tmp_path)
        assert (first.path / "run.json").read_bytes() == record
        assert RunDir.read(first.path).record["status"] == "running"  # reading needs no lock
    assert entered == []
    assert RunDir.read(first.path).record["status"] == "done"


@pytest.mark.parametrize("raised", [None, RunError("no room"), KeyboardInterrupt()], ids=repr)
def test_the_lock_is_given_back_however_the_work_ends(raised: BaseException | None, tmp_path: Path) -> None:
    run = started(tmp_path)
    if raised is None:
        with run.recording():
            pass
    else:
        with pytest.raises(type(raised)), run.recording():
            raise raised
    with started(tmp_path).recording():
        assert RunDir.read(run.path).record["status"] == "running"


def test_what_another_process_finished_in_between_is_not_done_again(tmp_path: Path) -> None:
    first, second = started(tmp_path), started(tmp_path)
    with first.recording():
        with_stage(first)
    with second.recording():
        assert second.is_done("sample", {"train": "d1"})
    assert "sample" in RunDir.read(first.path).record["stages"]


def test_the_lock_is_part_of_no_output(tmp_path: Path) -> None:
    run = started(tmp_path)
    with run.recording():
        output = with_stage(run)
        assert [p.name for p in run.path.rglob(".*")] == [".lock"]
        assert not output.parent.joinpath(".lock").exists()
        assert run.is_done("sample", {"train": "d1"})
    (run.path / ".lock").unlink()
    assert started(tmp_path).is_done("sample", {"train": "d1"})


def test_a_folder_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(
        RunError, match=r"mine-0123abcd cannot be locked \(No locks available\); choose another --runs folder.$"
    ):
        started(tmp_path)


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    run = started(tmp_path)
    (run.path / ".lock").unlink()
    (run.path / ".lock").mkdir()
    with pytest.raises(
        RunError, match=r"mine-0123abcd cannot be written \(Is a directory\); choose another --runs folder.$"
    ):
        started(tmp_path)


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_are_lines_in_order(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert log.read() == []
    events = [{"step": s, "loss_clean": 1 / s} for s in (10, 20, 30)]
    for event in events:
        log.append(event)
    assert log.read() == events
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 3


def test_a_resumed_training_drops_the_lines_that_it_writes_again(tmp_path: Path) -> None:
    first = EventLog(tmp_path / "events.jsonl")
    for step in (10, 20, 30, 40):
        first.append({"step": step, "run": 1})
    resumed = EventLog(tmp_path / "events.jsonl")
    for step in (30, 40, 50):
        resumed.append({"step": step, "run": 2})
    assert [(e["step"], e["run"]) for e in resumed.read()] == [(10, 1), (20, 1), (30, 2), (40, 2), (50, 2)]


def test_a_line_that_was_cut_off_is_left_out_and_written_over(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text('{"step": 10}\n{"step": 20}\n{"st')
    log = EventLog(file)
    assert log.read() == [{"step": 10}, {"step": 20}]
    log.append({"step": 30})
    assert log.read() == [{"step": 10}, {"step": 20}, {"step": 30}]
