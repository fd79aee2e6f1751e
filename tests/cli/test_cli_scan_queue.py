"""scan --from: the list, the folder, the summary and the exit code."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from baddiffusion.scan_queue import task as tasks
from baddiffusion.scan_queue.store import Store


class Pretend:
    """Stands for the warm process: a model called *bad* is backdoored, one called *odd* kills its process."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def ask(self, call: str, argument: dict[str, Any], seconds: float | None, memory: int | None) -> dict[str, Any]:
        self.asked.append({**argument, "seconds": seconds, "memory": memory})
        name = argument["subject"]
        if name == "odd":
            why = "its process was killed by SIGSEGV"
            return {"failed": "died", "why": why, "signal": "SIGSEGV", "exit_code": None}
        folder = Store(Path(argument["out"])).scan(argument["contents"])
        folder.mkdir(parents=True)
        for file in ("scan.json", "origin.json"):
            (folder / file).write_text("{}")
        bad = name == "bad"
        return {"value": {
            "outcome": "backdoored" if bad else "no evidence", "reasons": ["It fires."] if bad else ["Nothing."],
            "p_value": 1e-8 if bad else None, "alarms": [], "exit_code": 3 if bad else 0, "weights": name * 8,
            "network_calls": 9, "seconds": 1.5, "scan": argument["contents"], "subject": name,
        }}  # fmt: skip

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
    for name in ("good", "bad", "odd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    (tmp_path / "models.txt").write_text("good\nbad\n# and\nodd\n")
    return tmp_path


def test_a_list_is_scanned_into_one_folder_and_summed_up(ask, pretend: Pretend, models: Path):
    told = ask("scan", "--from", models / "models.txt", "--out", models / "out", "--timeout", "30m", "--memory", "8g")
    assert told.code == 3, told.err
    assert [entry["subject"] for entry in pretend.asked] == ["good", "bad", "odd"]
    assert {(entry["seconds"], entry["memory"]) for entry in pretend.asked} == {(1800.0, 8 << 30)}
    assert told.out.startswith("1  backdoored\n1  no evidence\n1  inconclusive\n\nbackdoored: bad  It fires.\n")
    assert "If 1 % of such models are backdoored, then of those called backdoored " in told.out
    assert "measured false alarms 0 of " in told.out
    assert "scanning: 0 of 3 models" in told.err
    names = {path.name for path in (models / "out").iterdir() if not path.name.startswith(".")}
    assert names == {"queue.json", "summary.json", "summary.csv", "index.html", "models", "contents", "scans"}
    assert str(models) not in (models / "out" / "summary.json").read_text()


def test_the_same_command_again_scans_nothing_but_what_died(ask, pretend: Pretend, models: Path):
    command = ("scan", "--from", models / "models.txt", "--out", models / "out", "--json")
    first, again = ask(*command).json(), ask(*command).json()
    assert [entry["subject"] for entry in pretend.asked] == ["good", "bad", "odd", "odd"]
    assert first == again


def test_an_interrupted_queue_says_so_once_and_goes_on(ask, pretend: Pretend, models: Path, monkeypatch):
    command = ("scan", "--from", models / "models.txt", "--out", models / "out", "--json")
    whole = pretend.ask

    def stopped(call, argument, seconds, memory):
        if argument["subject"] == "bad":
            raise KeyboardInterrupt
        return whole(call, argument, seconds, memory)

    monkeypatch.setattr(pretend, "ask", stopped)
    told = ask(*command)
    assert told.code == 130
    assert told.err.endswith("\ninterrupted. What is finished is kept; the same command goes on from there.\n")
    assert told.err.count("goes on from there") == 1
    monkeypatch.setattr(pretend, "ask", whole)
    ask(*command)
    assert [entry["subject"] for entry in pretend.asked] == ["good", "bad", "odd"]


def test_the_list_may_come_from_a_pipe_or_be_a_folder(ask, pretend: Pretend, models: Path, monkeypatch):
    monkeypatch.chdir(models)
    monkeypatch.setattr("sys.stdin", io.StringIO("good\n"))
    told = ask("scan", "--from", "-", "--json")
    assert (told.code, [m["name"] for m in told.json()["models"]]) == (0, ["good"])
    assert (models / "scans" / "index.html").exists()
    found = ask("scan", "--from", models, "--out", models / "scans", "--json").json()
    assert [m["name"] for m in found["models"]] == ["bad", "good", "odd"]
    assert [entry["subject"] for entry in pretend.asked] == ["good", "bad", "odd"]


def test_a_dry_run_counts_and_begins_nothing(ask, pretend: Pretend, models: Path, checkpoint: Path):
    lines = f"good\nbad\n{checkpoint}\nowner/name\n"
    (models / "models.txt").write_text(lines)
    command = ("scan", "--from", models / "models.txt", "--out", models / "out", "--budget", "700", "--dry-run")
    told = ask(*command, "--timeout", "30m")
    assert (told.code, pretend.asked) == (0, [])
    assert "models              4\n" in told.out
    assert "different contents  3, of which 0 are scanned already\n" in told.out
    assert "network calls       at most 700\n" in told.out
    assert "time of each        at most 30 min" in told.out
    assert "not counted         1 that cannot be read" in told.out
    assert not (models / "out").exists()
    (models / "models.txt").write_text("good\nbad\n")
    ask("scan", "--from", models / "models.txt", "--out", models / "out", "--budget", "700")
    assert ask(*command, "--json").json()["known"] == 2


def test_jobs_of_an_array_take_their_part(ask, pretend: Pretend, models: Path):
    command = ("scan", "--from", models / "models.txt", "--out", models / "out", "--json")
    first = ask(*command, "--shard", "1/2")
    assert (first.code, first.json()["counts"]["waiting"]) == (4, 1)
    second = ask(*command, "--shard", "2/2")
    assert (second.code, second.json()["counts"]["waiting"]) == (3, 0)
    assert [entry["subject"] for entry in pretend.asked] == ["good", "odd", "bad"]


def test_what_is_done_before_a_break_is_summed_up(ask, pretend: Pretend, models: Path, monkeypatch):
    def breaks(call: str, argument: dict[str, Any], *rest: Any) -> dict[str, Any]:
        if argument["subject"] == "bad":
            raise KeyboardInterrupt
        return Pretend.ask(pretend, call, argument, *rest)

    monkeypatch.setattr(pretend, "ask", breaks)
    told = ask("scan", "--from", models / "models.txt", "--out", models / "out")
    assert (told.code, told.out) == (130, "")
    assert "the same command goes on from there" in told.err
    found = json.loads((models / "out" / "summary.json").read_text())
    assert {m["name"]: m["outcome"] for m in found["models"]} == {
        "good": "no evidence", "bad": "waiting", "odd": "waiting",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--from", "nowhere.txt"], "--from nowhere.txt cannot be read (No such file or directory)"),
        (["--from", "bad.txt"], "bad.txt cannot be used; nothing was begun. line 2: 'nowhere' does not exist"),
        (["--from", "latin.txt"], "latin.txt cannot be used; line 2 is not UTF-8. Nothing was begun."),
        (["--from", "models.txt", "--budget", "5m"], "--budget is '5m'; of many models it is a number of network"),
        (["--from", "models.txt", "--budget", "0"], "--budget is '0'; of many models it is a number of network"),
        (["--from", "models.txt", "--seed", "-1"], "--seed is -1; it must be at least 0."),
        (["--from", "models.txt", "--timeout", "soon"], "--timeout is 'soon'; give a time"),
        (["--from", "models.txt", "--memory", "1"], "--memory is '1'; give an amount of memory"),
        (["--from", "models.txt", "--prevalence", "1.5"], "--prevalence is 1.5; it must lie between 0 and 1"),
        (["--from", "models.txt", "--shard", "3/2"], "shard is 3/2; it must be i/n"),
        (["--from", "models.txt", "--sarif"], "--from takes a list, and no --sarif beside it."),
        (["good", "--from", "models.txt"], "--from takes a list, and no further model beside it."),
        (["good", "--timeout", "5m"], "--timeout is about many models; it needs --from LIST."),
        (["good", "--workers", "2"], "--workers is about many models; it needs --from LIST."),
        ([], "there is no model to scan; name one, or give a list with --from."),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_nothing_begins(ask, pretend, models: Path, monkeypatch, flags, said: str):
    monkeypatch.chdir(models)
    (models / "bad.txt").write_text("good\nnowhere\n")
    (models / "latin.txt").write_bytes(b"good\nb\xe4d\n")
    told = ask("scan", *flags)
    assert (told.code, told.out, pretend.asked) == (2, "", [])
    assert said in told.err
    assert told.err.count("\n") == 1
    assert not (models / "scans").exists()
