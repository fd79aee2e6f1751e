"""Every executor gives the same outcomes; a killed worker costs only its task; nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from baddiffusion.errors import RecipeError
from baddiffusion.executors import Executor, OnRay, Outcome, Processes, Serial, Task, processes, shard

WORK = """
import os, signal, sys, time
from pathlib import Path

from baddiffusion.errors import RecipeError

def add(x, y=0):
    print("a task may print what it likes")
    return {"sum": x + y, "pair": (x, y)}

def divide(x):
    return 1 / x

def mistake():
    raise RecipeError("poison.rate is 10;\\n it must lie in [0, 1].")

def leave():
    sys.exit("enough")

def unspeakable():
    return object()

def rest(seconds, mark=None):
    if mark is not None:
        Path(mark).write_text(str(os.getpid()))
    time.sleep(seconds)
    return os.getpid()

def deaf(mark):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return rest(60, mark)

def die(mark, times, signal_number=9):
    count = len(list(Path(mark).parent.glob(Path(mark).name + "-*")))
    Path(f"{mark}-{count}").touch()
    if count < times:
        print("the last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal_number)
    return os.getpid()

def threads():
    already = "torch" in sys.modules
    import torch
    return [already, os.environ["OMP_NUM_THREADS"], torch.get_num_threads()]

def stubborn(mark):
    try:
        Path(mark).touch()
        time.sleep(60)
    except KeyboardInterrupt:
        Path(mark).write_text("interrupted")
        raise
"""


@pytest.fixture(autouse=True)
def _importable(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "executed_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(folder)


def task(key: str, function: str, **argument: object) -> Task:
    return Task(key, f"executed_work:{function}", argument)


def run(executor: Executor, tasks: list[Task]) -> tuple[list[Outcome], list[str], list[Outcome]]:
    started: list[str] = []
    told: list[Outcome] = []
    return executor.run(tasks, started.append, told.append), started, told


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("executor", [Serial(), Processes(2)], ids=repr)
def test_outcomes_are_the_same_everywhere(executor: Executor):
    names = ("add", "divide", "mistake", "leave", "unspeakable", "nowhere")
    arguments = {"add": {"x": 2, "y": 3}, "divide": {"x": 0}}
    tasks = [task(name, name, **arguments.get(name, {})) for name in names]
    outcomes, started, told = run(executor, tasks)
    assert [outcome.key for outcome in outcomes] == started == list(names)
    assert sorted(told, key=lambda o: names.index(o.key)) == outcomes
    by_name = {outcome.key: outcome for outcome in outcomes}
    assert (by_name["add"].status, by_name["add"].value) == ("done", {"sum": 5, "pair": [2, 3]})
    assert {outcome.status for outcome in outcomes[1:]} == {"failed"}
    assert [by_name[name].error for name in names[:4]] == [
        None,
        "ZeroDivisionError: division by zero",
        "poison.rate is 10; it must lie in [0, 1].",
        "SystemExit: enough",
    ]
    assert "return 1 / x" in str(by_name["divide"].traceback)
    assert str(by_name["unspeakable"].error).startswith(
        "the task returned what JSON cannot hold (Object of type object"
    )
    assert "nowhere" in str(by_name["nowhere"].error)
    assert isinstance(executor, Executor)


def test_no_tasks_are_no_work():
    assert [run(executor, [])[0] for executor in (Serial(), Processes(2))] == [[], []]


def test_a_killed_worker_costs_only_its_task_which_is_tried_again(tmp_path: Path):
    tasks = [task(f"calm-{i}", "rest", seconds=0.05) for i in range(3)]
    tasks.insert(1, task("killed", "die", mark=str(tmp_path / "once"), times=1))
    outcomes, started, told = run(Processes(2, threads=1), tasks)
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert sorted(started) == ["calm-0", "calm-1", "calm-2", "killed", "killed"]
    assert len(told) == 4
    assert len(list(tmp_path.iterdir())) == 2  # two tries, and no third


@pytest.mark.parametrize(
    ("retries", "signal_number", "message"),
    [
        (1, 9, "its process was killed by SIGKILL (2 times); often the system ran out of memory: use fewer workers."),
        (0, 15, "its process was killed by SIGTERM (once)."),
    ],
)
def test_what_kills_every_worker_is_lost(tmp_path: Path, retries: int, signal_number: int, message: str):
    deadly = task("deadly", "die", mark=str(tmp_path / "always"), times=9, signal_number=signal_number)
    outcomes, _, _ = run(Processes(1, threads=1, retries=retries), [deadly, task("after", "add", x=1)])
    assert [outcome.status for outcome in outcomes] == ["lost", "done"]
    assert outcomes[0].error == message
    assert "the last words" in str(outcomes[0].traceback)
    assert len(list(tmp_path.iterdir())) == retries + 1


def test_each_worker_is_used_for_many_tasks_and_none_is_left():
    outcomes, _, _ = run(Processes(2, threads=1), [task(str(i), "rest", seconds=0.02) for i in range(8)])
    pids = {outcome.value for outcome in outcomes}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(map(is_gone, pids))  # a zombie would still be there


def test_k_tasks_on_w_workers_take_hardly_more_than_their_share():
    def seconds(workers: int, count: int) -> float:
        began = time.perf_counter()
        run(Processes(workers, threads=1), [task(str(i), "rest", seconds=0.3) for i in range(count)])
        return time.perf_counter() - began

    alone = min(seconds(1, 1) for _ in range(2))
    assert seconds(2, 6) <= 1.15 * 6 / 2 * alone


def test_threads_are_set_before_torch_is_imported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (outcome,), _, _ = run(Processes(1, threads=2), [task("threads", "threads")])
    assert outcome.value == [False, "2", 2]


@pytest.mark.parametrize(
    ("cores", "asked", "workers", "threads"),
    [(8, "", 2, 4), (8, "", 3, 2), (8, "4", 2, 2), (2, "", 5, 1), (2, "x", 1, 2)],
)
def test_threads_are_divided(monkeypatch: pytest.MonkeyPatch, cores: int, asked: str, workers: int, threads: int):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert Processes(workers).threads_each == threads
    assert Processes(workers, threads=7).threads_each == 7


def test_ctrl_c_lets_the_workers_say_so_and_ends_them(tmp_path: Path):
    mark = tmp_path / "mark"

    def press_ctrl_c() -> None:
        while not mark.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    presser = threading.Thread(target=press_ctrl_c, daemon=True)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(Processes(1, threads=1), [task("stubborn", "stubborn", mark=str(mark)), task("never", "add", x=1)])
    finally:
        signal.signal(signal.SIGINT, before)
    presser.join()
    assert mark.read_text() == "interrupted"


def test_a_worker_that_ignores_ctrl_c_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "GRACE_S", 0.0)
    mark = tmp_path / "pid"

    def stop(key: str) -> None:
        if key == "second":
            while not mark.exists() or not mark.read_text():
                time.sleep(0.02)
            raise KeyboardInterrupt

    tasks = [task("first", "deaf", mark=str(mark)), task("second", "add", x=1)]
    with pytest.raises(KeyboardInterrupt):
        Processes(2, threads=1).run(tasks, stop, lambda outcome: None)
    assert is_gone(int(mark.read_text()))


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path):
    mark = tmp_path / "pid"
    code = (
        "import sys\nfrom baddiffusion.executors import Processes, Task\n"
        f"task = Task('long', 'executed_work:rest', {{'seconds': 60, 'mark': {str(mark)!r}}})\n"
        "Processes(1, threads=1).run([task], print, print)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)
    while not mark.exists() or not mark.read_text():
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while not is_gone(int(mark.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_gone(int(mark.read_text()))


@pytest.mark.parametrize("executor", [Serial(), Processes(2), OnRay()], ids=lambda e: type(e).__name__)
def test_a_key_stands_once(executor: Executor):
    with pytest.raises(RecipeError, match="task key 'a' stands twice; every task needs a key of its own"):
        run(executor, [task("a", "add", x=1), task("a", "add", x=2)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("../a", "m:f", {}), r"task key is '../a'; it must be safe as a file's name"),
        (("a", "m.f", {}), r"call of task a is 'm.f'; write module:function."),
        (("a", "m:f", {"x": object()}), r"argument of task a is not JSON \(Object of type object"),
        (("a", "m:f", {"x": float("nan")}), r"argument of task a is not JSON \(Out of range"),
    ],
)
def test_a_task_is_checked(values: tuple, message: str):
    with pytest.raises(RecipeError, match=message):
        Task(*values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Processes(0), "workers is 0; it must be at least 1."),
        (lambda: Processes(1, threads=0), "threads is 0; it must be at least 1."),
        (lambda: Processes(1, retries=-1), "retries is -1; it must be at least 0."),
        (lambda: OnRay(workers=0), "workers is 0; it must be at least 1."),
        (lambda: OnRay(retries=-1), "retries is -1; it must be at least 0."),
        (lambda: OnRay(num_cpus=0.0), "num_cpus is 0.0; it must be more than 0."),
        (lambda: OnRay(num_gpus=-0.5), "num_gpus is -0.5; it must be at least 0."),
        (lambda: OnRay(num_gpus=1.5), "num_gpus is 1.5; above 1 Ray takes whole numbers only."),
    ],
)
def test_executors_are_checked(make, message: str):
    with pytest.raises(RecipeError) as raised:
        make()
    assert str(raised.value) == message


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_every_task_stands_in_exactly_one_shard(count: int):
    tasks = list(range(7))
    shards = [shard(tasks, index, count) for index in range(1, count + 1)]
    assert sorted(entry for part in shards for entry in part) == tasks
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(("index", "count"), [(0, 2), (3, 2), (1, 0)])
def test_a_shard_that_does_not_exist(index: int, count: int):
    with pytest.raises(RecipeError, match=f"shard is {index}/{count}; it must be i/n with 1 ≤ i ≤ n"):
        shard([1, 2], index, count)


def test_importing_the_executors_imports_nothing_heavy():
    heavy = "sorted({'torch', 'ray', 'numpy', 'pydantic'} & set(sys.modules))"
    code = f"import sys, json, baddiffusion.executors; print(json.dumps({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
