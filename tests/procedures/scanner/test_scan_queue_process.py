"""The process of one model: limits, deaths, and real scans that are moved into place whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from diffusers.models import UNet2DModel

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.errors import RunError
from baddiffusion.models import build
from baddiffusion.pipeline import FRESH_SCHEDULER
from baddiffusion.scan_queue import Asked, Limits, read_list, run_queue
from baddiffusion.scan_queue import task as tasks
from baddiffusion.scan_queue.warm import Warm

WORK = """
import os, signal, sys, time
from pathlib import Path

def add(x, y):
    return x + y

def sleep(mark):
    os.system("sleep 60 &")
    Path(mark).write_text(str(os.getpid()))
    time.sleep(60)

def die(number):
    os.kill(os.getpid(), number)

def leave():
    os._exit(7)

def hold(megabytes):
    kept = bytearray(megabytes << 20)
    kept[::4096] = b"1" * len(kept[::4096])
    time.sleep(30)

def ask_for(megabytes):
    import torch
    return torch.empty(megabytes << 20, dtype=torch.uint8).numel()

def threads():
    return len(os.listdir("/proc/self/task"))

def parent():
    return os.getppid()

def multiply():
    import torch
    torch.set_num_threads(2)
    x = torch.ones(400, 400)
    return float((x @ x).sum()), torch.get_num_threads()

def wrong():
    raise ValueError("no such thing")
"""
TINY = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "norm_num_groups": 4,
    "layers_per_block": 1, "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",),
}  # fmt: skip
SCHEDULER = {**FRESH_SCHEDULER, "num_train_timesteps": 20}
CALLS = 700


def write_model(path: Path, seed: int) -> Path:
    network: UNet2DModel = build(TINY, seed)
    return Checkpoint.write(path, network, SCHEDULER).path


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    folder = tmp_path_factory.mktemp("work")
    (folder / "queue_work.py").write_text(WORK)
    sys.path.insert(0, str(folder))
    os.environ["OMP_NUM_THREADS"], before = "1", os.environ.get("OMP_NUM_THREADS")
    made = Warm()
    try:
        yield made
    finally:
        made.close()
        sys.path.remove(str(folder))
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)


def ask(warm: Warm, name: str, seconds: float | None = 30.0, memory: int | None = None, **argument: Any) -> Any:
    return warm.ask(f"queue_work:{name}", argument, seconds, memory)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestLimits:
    def test_children_come_from_one_process_that_has_used_no_thread(self, warm: Warm):
        assert ask(warm, "add", x=1, y=2) == {"value": 3}
        assert ask(warm, "parent") == ask(warm, "parent")
        parent = ask(warm, "parent")["value"]
        assert len(os.listdir(f"/proc/{parent}/task")) == 1
        assert ask(warm, "multiply")["value"] == [400.0**3, 2]
        assert ask(warm, "multiply")["value"] == [400.0**3, 2]

    def test_what_takes_too_long_is_ended_with_all_that_it_started(self, warm: Warm, tmp_path: Path):
        began = time.monotonic()
        answer = ask(warm, "sleep", 1.0, mark=str(tmp_path / "mark"))
        assert answer == {"failed": "time", "why": "it was stopped after 1 s, the time limit", "signal": None,
                          "exit_code": None}  # fmt: skip
        assert time.monotonic() - began < 20
        assert not is_running(int((tmp_path / "mark").read_text()))

    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
    def test_a_death_is_told_with_its_signal(self, warm: Warm, number: signal.Signals):
        answer = ask(warm, "die", number=int(number))
        assert (answer["failed"], answer["signal"], answer["exit_code"]) == ("died", number.name, None)
        assert f"its process was killed by {number.name}" in answer["why"]
        assert ask(warm, "add", x=1, y=2) == {"value": 3}

    def test_an_end_without_an_answer_is_told(self, warm: Warm):
        answer = ask(warm, "leave")
        assert (answer["why"], answer["exit_code"]) == ("its process ended with exit code 7 and no answer", 7)

    def test_a_bug_of_ours_is_told_with_its_traceback(self, warm: Warm):
        answer = ask(warm, "wrong")
        assert (answer["failed"], answer["why"]) == ("error", "ValueError: no such thing")
        assert "in wrong" in answer["traceback"]

    def test_what_holds_too_much_memory_is_stopped(self, warm: Warm):
        answer = ask(warm, "hold", memory=1 << 30, megabytes=900)
        assert answer["failed"] == "memory"
        assert "1 GiB, the memory limit" in answer["why"]

    def test_what_asks_for_too_much_memory_does_not_get_it(self, warm: Warm):
        answer = ask(warm, "ask_for", memory=2 << 30, megabytes=100_000)
        assert (answer["failed"], answer["why"]) == ("memory", "it ran out of memory within 2 GiB, the memory limit")

    def test_a_warm_process_that_is_killed_takes_its_child_along_and_is_started_again(self, warm: Warm, tmp_path):
        first = ask(warm, "parent")["value"]
        mark = tmp_path / "mark"
        code = f"import os,time,signal\nwhile not os.path.exists({str(mark)!r}): time.sleep(.02)\nos.kill({first}, 9)"
        killer = subprocess.Popen([sys.executable, "-c", code])
        answer = ask(warm, "sleep", mark=str(mark))
        killer.wait()
        assert answer["why"] == "the process that forks was killed by SIGKILL while the model was scanned"
        wait_for(lambda: not is_running(int(mark.read_text())))
        assert ask(warm, "add", x=1, y=2) == {"value": 3}

    def test_one_that_cannot_start_is_an_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        (tmp_path / "torch.py").write_text("raise ImportError('torch is broken')")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        with pytest.raises(RunError, match=r"cannot start, it ended with exit code 1: .*torch is broken"):
            Warm().ask("queue_work:add", {}, None, None)


@pytest.fixture
def queue(warm: Warm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a queue whose warm process lives on."""
    monkeypatch.setattr(tasks, "WARM", warm)
    monkeypatch.setattr("baddiffusion.scan_queue.queue.WARM", Warm())

    def run(*lines: str, **options: Any) -> list[dict[str, Any]]:
        entries = read_list("\n".join(lines), tmp_path, "list")
        asked = Asked(budget=options.pop("budget", CALLS))
        return [row.record for row in run_queue(entries, tmp_path / "out", asked, **options)]

    return run


class TestScans:
    def test_a_scan_lies_there_as_scan_leaves_it(self, queue, tmp_path: Path):
        write_model(tmp_path / "net", 0)
        (record,) = queue("net", limits=Limits(120.0, 8 << 30))
        folder = tmp_path / "out" / "scans" / record["scan"]
        names = ["README.md", "evidence.safetensors", "origin.json", "report.html", "scan.json"]
        assert sorted(path.name for path in folder.iterdir()) == names
        found = json.loads((folder / "scan.json").read_text())
        assert found["verdict"]["outcome"] == record["outcome"]
        assert found["dynamic"]["spent"]["network_calls"] == record["network_calls"] > 0
        assert found["request"]["command"] == f"baddiffusion scan net --seed 0 --budget {CALLS}"
        assert record["weights"] == Checkpoint.open(tmp_path / "net").digest
        assert str(tmp_path) not in "".join(p.read_text() for p in folder.iterdir() if p.suffix != ".safetensors")

    def test_the_same_weights_in_another_layout_keep_their_answer_and_get_their_own_files(self, queue, tmp_path: Path):
        write_model(tmp_path / "net", 0)
        shutil.copytree(tmp_path / "net", tmp_path / "odd")
        (tmp_path / "odd" / "leaves").symlink_to("/etc/hostname")
        plain, odd = queue("net", "odd")
        events = [json.loads(line)["event"] for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()]
        assert events == ["begins", "ended"]
        assert (plain["exit_code"], odd["exit_code"]) == (4, 3)
        assert (plain["alarms"], [alarm[:5] for alarm in odd["alarms"]]) == ([], ["BD010"])
        one, other = (
            json.loads((tmp_path / "out" / "scans" / r["scan"] / "scan.json").read_text()) for r in (plain, odd)
        )
        assert one["dynamic"] == other["dynamic"]
        assert one["verdict"] == other["verdict"]
        assert other["request"]["subject"] == "odd"
        assert "scan odd --seed" in (tmp_path / "out" / "scans" / odd["scan"] / "README.md").read_text()
        assert len(other["files"]["findings"]) == len(one["files"]["findings"]) + 1

    def test_hostile_and_broken_folders_end_at_the_files(self, queue, tmp_path: Path):
        (tmp_path / "empty").mkdir()
        write_model(tmp_path / "half", 0)
        os.truncate(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors", 100)
        (tmp_path / "circle").mkdir()
        (tmp_path / "circle" / "a").symlink_to("b")
        (tmp_path / "circle" / "b").symlink_to("a")
        records = queue("empty", "half", "circle")
        assert [record["outcome"] for record in records] == ["not examined"] * 3
        assert records[0]["reasons"] == ["the folder is empty"]
        assert all((tmp_path / "out" / "scans" / r["scan"] / "report.html").exists() for r in records)

    def test_files_alone_call_no_network(self, queue, tmp_path: Path):
        write_model(tmp_path / "net", 0)
        (record,) = queue("net", budget=0)
        assert (record["outcome"], record["network_calls"], record["weights"]) == ("not examined", 0, "")
        assert not (tmp_path / "out" / "journal.jsonl").exists()

    @pytest.mark.parametrize("budget", [0, CALLS])
    def test_a_scan_that_was_moved_but_not_yet_written_down_is_found_again(self, queue, tmp_path: Path, budget: int):
        write_model(tmp_path / "net", 0)
        (first,) = queue("net", budget=budget)
        written = (tmp_path / "out" / "scans" / first["scan"] / "scan.json").stat().st_mtime_ns
        shutil.rmtree(tmp_path / "out" / "contents")
        shutil.rmtree(tmp_path / "out" / "models")
        assert queue("net", budget=budget) == [first]
        assert (tmp_path / "out" / "scans" / first["scan"] / "scan.json").stat().st_mtime_ns == written

    def test_a_scan_without_its_record_is_made_anew(self, queue, tmp_path: Path):
        (tmp_path / "empty").mkdir()
        (first,) = queue("empty")
        (tmp_path / "out" / "scans" / first["scan"] / "scan.json").unlink()
        (again,) = queue("empty")
        assert again == first | {"seconds": again["seconds"]}
        assert (tmp_path / "out" / "scans" / first["scan"] / "scan.json").exists()

    def test_what_a_killed_process_left_is_not_taken_for_finished(self, queue, tmp_path: Path):
        write_model(tmp_path / "net", 0)
        (first,) = queue("net", budget=0)
        out = tmp_path / "out"
        shutil.move(out / "scans" / first["scan"], out / ".work" / first["scan"])
        (out / ".work" / first["scan"] / "scan.json").write_text("{")
        (again,) = queue("net", budget=0)
        assert again == first | {"seconds": again["seconds"]}
        assert json.loads((out / "scans" / first["scan"] / "scan.json").read_text())["schema"] == 2
        assert list((out / ".work").iterdir()) == []
