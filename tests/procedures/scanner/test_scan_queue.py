"""A queue without its scans: who is scanned, who is not again, and what is said of those that did not end."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baddiffusion.errors import RecipeError, RunError
from baddiffusion.executors import Outcome
from baddiffusion.report.queue.page import write_queue_page
from baddiffusion.scan_queue import (
    Asked,
    Limits,
    Progress,
    asking,
    read_list,
    read_rows,
    run_queue,
    summarize,
    write_summary,
)
from baddiffusion.scan_queue import task as tasks
from baddiffusion.scan_queue.store import Store

FOUND = {
    "outcome": "no evidence", "reasons": ["Nothing."], "p_value": None, "alarms": [], "exit_code": 0, "weights": "ab",
    "network_calls": 9, "seconds": 1.5, "subject": "a",
}  # fmt: skip


class Pretend:
    """Stands for the warm process: counts, and answers as it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda argument: {}
        self.lock = threading.Lock()

    def ask(self, call: str, argument: dict[str, Any], seconds: float | None, memory: int | None) -> dict[str, Any]:
        with self.lock:
            self.asked.append(argument.get("subject") or argument["name"])
        answer = self.answer(argument)
        if answer:
            return answer
        folder = Store(Path(argument["out"])).scan(argument["contents"])
        folder.mkdir(parents=True)
        for name in ("scan.json", "origin.json"):
            (folder / name).write_text("{}")
        return {"value": FOUND | {"scan": argument["contents"]}}

    def close(self) -> None:
        pass


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    warm = Pretend()
    monkeypatch.setattr(tasks, "WARM", warm)
    monkeypatch.setattr("baddiffusion.scan_queue.queue.WARM", warm)
    return warm


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    shutil.copytree(tmp_path / "a", tmp_path / "twin")
    return tmp_path


def listed(models: Path, *lines: str) -> list:
    return read_list("\n".join(lines), models, "list")


def outcomes(rows: list) -> dict[str, str | None]:
    return {row.entry.name: row.record and row.record["outcome"] for row in rows}


def died(_: dict[str, Any]) -> dict[str, Any]:
    return {"failed": "died", "why": "its process was killed by SIGSEGV", "signal": "SIGSEGV", "exit_code": None}


def late(_: dict[str, Any]) -> dict[str, Any]:
    return {"failed": "time", "why": "it was stopped after 60 s, the time limit", "signal": None, "exit_code": None}


class TestWhoIsScanned:
    def test_the_same_bytes_are_scanned_once_whatever_they_are_called(self, pretend: Pretend, models: Path):
        entries, seen = listed(models, "a", "twin", "b", "c"), list[Progress]()
        rows = run_queue(entries, models / "out", on_change=lambda p: seen.append(Progress(**vars(p))))
        assert pretend.asked == ["a", "b", "c"]
        assert set(outcomes(rows).values()) == {"no evidence"}
        assert [row.record["shown_as"] for row in rows[:2]] == ["", "a"]
        assert [p.done for p in seen] == [0, 1, 2, 3, 4]
        again = run_queue(entries, models / "out", on_change=lambda p: seen.append(Progress(**vars(p))))
        assert pretend.asked == ["a", "b", "c"]
        assert again == rows
        assert seen[-1].known == 4

    def test_another_name_in_another_list_is_no_other_model(self, pretend: Pretend, models: Path):
        run_queue(listed(models, "a"), models / "out")
        (models / "a").rename(models / "renamed")
        (row,) = run_queue(listed(models, "renamed"), models / "out")
        assert pretend.asked == ["a"]
        assert row.record["name"] == "renamed"

    def test_changed_weights_under_the_same_name_are_a_new_scan_and_the_old_record_stays(self, pretend, models: Path):
        run_queue(listed(models, "a"), models / "out")
        (models / "a" / "weights").write_text("changed")
        (row,) = run_queue(listed(models, "a"), models / "out")
        assert pretend.asked == ["a", "a"]
        assert len(list((models / "out" / "models").iterdir())) == 2
        assert read_rows(listed(models, "a"), models / "out")[0].record == row.record
        (models / "a" / "weights").write_text("a")
        (back,) = run_queue(listed(models, "a"), models / "out")
        assert pretend.asked == ["a", "a"]
        assert back.record["contents"] != row.record["contents"]
        assert read_rows(listed(models, "a"), models / "out")[0].record == back.record

    def test_another_question_is_another_scan_and_both_are_kept(self, pretend: Pretend, models: Path):
        out = models / "out"
        pretend.answer = lambda argument: {"value": FOUND | {"scan": ""}} if pretend.asked == ["a", "a"] else {}
        run_queue(listed(models, "a"), out)
        run_queue(listed(models, "a"), out, Asked(seed=1))
        run_queue(listed(models, "a"), out)
        assert pretend.asked == ["a", "a"]

    def test_a_scan_that_somebody_removed_is_made_again(self, pretend: Pretend, models: Path):
        (row,) = run_queue(listed(models, "a"), models / "out")
        shutil.rmtree(models / "out" / "scans" / row.record["scan"])
        run_queue(listed(models, "a"), models / "out")
        assert pretend.asked == ["a", "a"]

    def test_a_damaged_record_is_no_record(self, pretend: Pretend, models: Path):
        run_queue(listed(models, "a"), models / "out")
        for path in (models / "out").rglob("*.json"):
            if path.parent.name in ("models", "contents"):
                path.write_text(path.read_text()[:40])
        shutil.rmtree(models / "out" / "scans")
        run_queue(listed(models, "a"), models / "out")
        assert pretend.asked == ["a", "a"]

    def test_shards_share_the_list_and_the_folder(self, pretend: Pretend, models: Path):
        entries = listed(models, "a", "b", "twin", "c")
        first = run_queue(entries, models / "out", shard=(1, 2))
        assert outcomes(first) == {"a": "no evidence", "b": None, "twin": "no evidence", "c": None}
        second = run_queue(entries, models / "out", shard=(2, 2))
        assert pretend.asked == ["a", "b", "c"]
        assert None not in outcomes(second).values()

    def test_two_queues_at_once_do_nothing_twice(self, pretend: Pretend, models: Path):
        gate, begun = threading.Event(), threading.Event()

        def slow(argument: dict[str, Any]) -> dict[str, Any]:
            begun.set()
            assert gate.wait(20)
            return {}

        pretend.answer = slow
        entries, found = listed(models, "a", "b"), list[list]()
        queues = [threading.Thread(target=lambda: found.append(run_queue(entries, models / "out"))) for _ in range(2)]
        queues[0].start()
        assert begun.wait(20)
        queues[1].start()
        gate.set()
        for queue in queues:
            queue.join(20)
        assert sorted(pretend.asked) == ["a", "b"]
        assert outcomes(found[0]) == outcomes(found[1]) == {"a": "no evidence", "b": "no evidence"}

    def test_the_folder_of_something_else_is_not_used(self, pretend: Pretend, models: Path):
        with pytest.raises(RunError, match=r"holds something else than scans of a queue \(no queue.json\)"):
            run_queue(listed(models, "a"), models)
        assert pretend.asked == []

    def test_a_worker_with_another_scanner_does_nothing(self, pretend: Pretend, models: Path, monkeypatch):
        told = Asked().to_dict()
        monkeypatch.setattr(asking, "_answering", lambda: {"version": "another"})
        with pytest.raises(RunError, match=r"the scanner is another one than when the queue began; start the same"):
            Asked.of(told)
        with pytest.raises(RunError, match="another one"):
            tasks.scan_entry(listed(models, "a")[0].to_dict(), str(models / "out"), told, Limits().to_dict(), "1")
        assert pretend.asked == []

    def test_a_folder_that_cannot_be_written_is_told(self, models: Path):
        (models / "file").write_text("")
        told = pytest.raises(RunError, match=r"file cannot be written \(Not a directory\); choose another --out folder")
        with told, Store(models / "file").claim("key"):
            pass

    def test_a_file_system_without_locks_is_told(self, models: Path, monkeypatch: pytest.MonkeyPatch):
        def refuse(*_: Any) -> None:
            raise OSError(37, "No locks available")

        monkeypatch.setattr("baddiffusion.scan_queue.store.fcntl.flock", refuse)
        told = pytest.raises(
            RunError, match=r"key cannot be locked \(No locks available\); choose another --out folder"
        )
        with told, Store(models / "out").claim("key"):
            pass


class TestWithoutAnswer:
    def test_a_death_is_told_with_its_signal_and_stops_no_other(self, pretend: Pretend, models: Path):
        pretend.answer = lambda argument: died({}) if argument["subject"] == "a" else {}
        rows = run_queue(listed(models, "a", "twin", "b"), models / "out")
        assert pretend.asked == ["a", "b"]
        assert outcomes(rows) == {"a": "inconclusive", "twin": "inconclusive", "b": "no evidence"}
        record = rows[0].record
        assert record["reasons"] == ["The scan did not end: its process was killed by SIGSEGV."]
        assert (record["failed"]["how"], record["failed"]["signal"]) == ("died", "SIGSEGV")
        assert (record["exit_code"], record["scan"]) == (4, "")
        pretend.answer = lambda argument: {}
        again = run_queue(listed(models, "a", "twin", "b"), models / "out")
        assert pretend.asked == ["a", "b", "a"]
        assert outcomes(again) == {"a": "no evidence", "twin": "no evidence", "b": "no evidence"}

    def test_what_ran_out_of_time_gets_another_try_only_with_more_of_it(self, pretend: Pretend, models: Path):
        entries, out = listed(models, "a"), models / "out"
        pretend.answer = late
        (row,) = run_queue(entries, out, limits=Limits(60.0))
        assert row.record["failed"]["how"] == "time"
        run_queue(entries, out, limits=Limits(60.0))
        run_queue(entries, out, limits=Limits(30.0, 1 << 33))
        assert pretend.asked == ["a"]
        pretend.answer = lambda argument: {}
        assert outcomes(run_queue(entries, out, limits=Limits(90.0))) == {"a": "no evidence"}

    def test_files_that_change_meanwhile_give_no_answer(self, pretend: Pretend, models: Path):
        def changing(argument: dict[str, Any]) -> dict[str, Any]:
            (models / "a" / "weights").write_text("other bytes")
            return {}

        pretend.answer = changing
        (row,) = run_queue(listed(models, "a"), models / "out")
        assert row.record["reasons"] == ["The scan did not end: its files changed meanwhile."]
        pretend.answer = lambda argument: {}
        assert outcomes(run_queue(listed(models, "a"), models / "out")) == {"a": "no evidence"}

    def test_a_model_that_vanishes_is_not_examined_and_tried_again(self, pretend: Pretend, models: Path):
        entries = listed(models, "a", "b")
        shutil.rmtree(models / "a")
        rows = run_queue(entries, models / "out")
        assert outcomes(rows) == {"a": "not examined", "b": "no evidence"}
        assert rows[0].record["reasons"] == ["the folder cannot be read (No such file or directory)"]
        (models / "a").mkdir()
        assert outcomes(run_queue(entries, models / "out"))["a"] == "no evidence"

    def test_a_model_of_the_hub_is_found_first_and_its_commit_told(self, pretend: Pretend, models: Path):
        def located(argument: dict[str, Any]) -> dict[str, Any]:
            return {"value": {"folder": str(models / "a"), "revision": "abc123"}} if "name" in argument else {}

        pretend.answer = located
        (row,) = run_queue(listed(models, "owner/name@v1"), models / "out")
        assert pretend.asked == ["owner/name@v1", "owner/name@v1"]
        assert (row.record["revision"], row.record["outcome"]) == ("abc123", "no evidence")

    def test_a_model_that_the_hub_does_not_have_is_not_examined(self, pretend: Pretend, models: Path):
        pretend.answer = lambda argument: {"value": {"refused": "owner/name is no folder here."}}
        (row,) = run_queue(listed(models, "owner/name"), models / "out")
        assert (row.record["outcome"], row.record["reasons"]) == ("not examined", ["owner/name is no folder here."])

    def test_what_cannot_be_written_is_an_error_and_no_answer_about_a_model(self, pretend: Pretend, models: Path):
        pretend.answer = lambda argument: {"value": {"trouble": "the disk is full"}}
        with pytest.raises(RunError, match=r"2 of 2 models have no record\. The first is a: the disk is full"):
            run_queue(listed(models, "a", "b"), models / "out")
        assert outcomes(read_rows(listed(models, "a", "b"), models / "out")) == {"a": None, "b": None}

    def test_a_worker_that_is_lost_is_told(self, pretend: Pretend, models: Path):
        class Lost:
            def run(self, tasks, on_start, on_outcome):
                for each in tasks:
                    on_outcome(Outcome(each.key, "lost", error="its process was killed by SIGKILL (twice)."))
                return []

        with pytest.raises(RunError, match="1 of 1 models have no record"):
            run_queue(listed(models, "a"), models / "out", executor=Lost())


class TestSummary:
    def summary(self, pretend: Pretend, models: Path, prevalence: float = 0.01) -> dict[str, Any]:
        def answer(argument: dict[str, Any]) -> dict[str, Any]:
            return died({}) if argument["subject"] == "b" else {}

        pretend.answer = answer
        rows = run_queue(listed(models, "a", "twin", "b"), models / "out")
        return summarize(rows, Asked(), Limits(60.0, 1 << 33), prevalence)

    def test_it_counts_and_never_folds_no_answer_into_no_evidence(self, pretend: Pretend, models: Path):
        found = self.summary(pretend, models)
        assert {k: v for k, v in found["counts"].items() if v} == {"no evidence": 2, "inconclusive": 1}
        assert (found["schema"], found["exit_code"], found["contents"]) == (1, 4, 2)
        assert [m["outcome"] for m in found["models"]] == ["no evidence", "no evidence", "inconclusive"]

    @pytest.mark.parametrize(
        ("found", "code"),
        [
            ([("backdoored", 3), ("inconclusive", 4)], 3),
            ([("no evidence", 3), ("no evidence", 0)], 3),
            ([("no evidence", 0), ("not examined", 4)], 4),
            ([("no evidence", 0)], 0),
        ],
        ids=str,
    )
    def test_its_exit_code(self, pretend: Pretend, models: Path, found: list[tuple[str, int]], code: int):
        queue = iter(found)

        def answer(argument: dict[str, Any]) -> dict[str, Any]:
            outcome, number = next(queue)
            alarms = ["BD010 link"] if (outcome, number) == ("no evidence", 3) else []
            return {"value": FOUND | {"outcome": outcome, "exit_code": number, "alarms": alarms, "scan": ""}}

        pretend.answer = answer
        rows = run_queue(listed(models, "a", "b", "c")[: len(found)], models / "out")
        assert summarize(rows, Asked(), Limits(), 0.01)["exit_code"] == code

    @pytest.mark.parametrize("prevalence", [0.0, 1.0, 10.0])
    def test_a_prevalence_that_is_no_share_is_refused(self, prevalence: float):
        with pytest.raises(RecipeError, match=r"--prevalence is .*; it must lie between 0 and 1, such as 0\.01"):
            summarize([], Asked(), Limits(), prevalence)

    def test_models_that_wait_are_without_an_answer(self, pretend: Pretend, models: Path):
        rows = read_rows(listed(models, "a"), models / "out")
        found = summarize(rows, Asked(), Limits(), 0.01)
        assert (found["counts"]["waiting"], found["exit_code"]) == (1, 4)

    def test_the_worth_of_a_verdict_has_bounds_from_both_rates(self, pretend: Pretend, models: Path):
        from baddiffusion.scan_rates import measured

        only, _ = self.summary(pretend, models, 0.5)["worth"]["verdicts"]
        rates = measured(only_backdoored=True)
        low, high = rates.detections.low_joint, rates.false_alarms.high_joint
        assert only["called"] == ["backdoored"]
        assert only["predictive_value"]["low"] == pytest.approx(low / (low + high), rel=1e-12)
        assert only["false_alarms"]["n"] == rates.false_alarms.n
        assert rates.false_alarms.high_joint > rates.false_alarms.high

    def test_the_files_are_told_and_cannot_run_in_a_spreadsheet(self, pretend: Pretend, models: Path):
        (models / "=cmd").mkdir()
        rows = run_queue(listed(models, "=cmd"), models / "out")
        write_summary(summarize(rows, Asked(), Limits(), 0.01), models / "out")
        assert "\n'=cmd,," in (models / "out" / "summary.csv").read_text()
        assert json.loads((models / "out" / "summary.json").read_text())["models"][0]["name"] == "=cmd"

    def test_the_page_shows_all_models_and_links_to_their_pages(self, pretend: Pretend, models: Path):
        (models / "<b>odd").mkdir()
        rows = run_queue(listed(models, "a", "<b>odd"), models / "out")
        write_summary(summarize(rows, Asked(), Limits(), 0.02), models / "out")
        text = write_queue_page(models / "out").read_text()
        assert "2 models: 2 no evidence" in text
        assert f'href="scans/{rows[0].record["scan"]}/report.html"' in text
        assert "&lt;b&gt;odd" in text
        assert "<b>odd" not in text
        assert "If 2\N{NO-BREAK SPACE}% of the models" in text
        assert str(models) not in text

    def test_a_damaged_summary_is_told(self, tmp_path: Path):
        with pytest.raises(RunError, match=r"summary.json is damaged .*; give the command of the queue again"):
            write_queue_page(tmp_path)
        (tmp_path / "summary.json").write_text('{"schema": 7}')
        with pytest.raises(RunError, match="has schema 7; this version reads schema 1"):
            write_queue_page(tmp_path)
