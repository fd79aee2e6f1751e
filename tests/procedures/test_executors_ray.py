"""A real Ray cluster on this machine: one of its workers is killed, and nothing is lost or done twice."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from baddiffusion.errors import RunError
from baddiffusion.executors import Executor, OnRay, Outcome, Task, on_ray

ray = pytest.importorskip("ray")

WORK = """
import os, signal, time
from pathlib import Path

def work(folder, key, deaths):
    tries = len(list(Path(folder).glob(f"{key}.try-*")))
    (Path(folder) / f"{key}.try-{tries}").touch()
    if tries < deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    (Path(folder) / f"{key}.done-{tries}").touch()
    return {"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"], "folder": os.getcwd()}

def divide(x):
    return 1 / x
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of two workers for all tests, in place of one for each."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "rayed_work.py").write_text(WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(folder), *sys.path)))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def run(executor: Executor, tasks: list[Task]) -> tuple[list[Outcome], list[str], list[Outcome]]:
    started: list[str] = []
    told: list[Outcome] = []
    return executor.run(tasks, started.append, told.append), started, told


def work(folder: Path, key: str, deaths: int = 0) -> Task:
    return Task(key, "rayed_work:work", {"folder": str(folder), "key": key, "deaths": deaths})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning:ray")
@pytest.mark.usefixtures("cluster")
class TestOnACluster:
    def test_a_killed_worker_costs_nothing_but_its_try(self, tmp_path: Path):
        tasks = [work(tmp_path, f"cell-{i}", deaths=int(i == 2)) for i in range(6)]
        outcomes, started, told = run(OnRay(num_cpus=1.0), tasks)
        assert [(outcome.key, outcome.status) for outcome in outcomes] == [(f"cell-{i}", "done") for i in range(6)]
        assert sorted(started) == sorted([*(f"cell-{i}" for i in range(6)), "cell-2"])
        assert sorted(outcome.key for outcome in told) == [f"cell-{i}" for i in range(6)]
        made = sorted(path.name for path in tmp_path.iterdir())
        assert [name for name in made if "done" in name] == [f"cell-{i}.done-{int(i == 2)}" for i in range(6)]
        assert len([name for name in made if "try" in name]) == 7
        assert {outcome.value["threads"] for outcome in outcomes} == {"1"}
        assert {outcome.value["folder"] for outcome in outcomes} == {os.getcwd()}
        assert len({outcome.value["pid"] for outcome in outcomes}) >= 2

    def test_a_task_that_kills_every_worker_is_lost_and_one_that_raises_failed(self, tmp_path: Path):
        tasks = [work(tmp_path, "deadly", 9), Task("bad", "rayed_work:divide", {"x": 0}), work(tmp_path, "good")]
        outcomes, _, _ = run(OnRay(), tasks)
        assert [outcome.status for outcome in outcomes] == ["lost", "failed", "done"]
        assert str(outcomes[0].error).startswith("its worker died: ")
        assert outcomes[1].error == "ZeroDivisionError: division by zero"
        assert "return 1 / x" in str(outcomes[1].traceback)
        assert len(list(tmp_path.glob("deadly.try-*"))) == 2

    def test_a_folder_that_the_worker_does_not_have_is_said(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(os, "getcwd", lambda: "/nowhere/at/all")
        (outcome,), _, _ = run(OnRay(), [Task("a", "rayed_work:divide", {"x": 1})])
        assert outcome.status == "failed"
        assert str(outcome.error).startswith("the worker could not begin: FileNotFoundError")

    def test_more_than_the_cluster_has_is_refused(self):
        with pytest.raises(RunError, match=r"has 2 cores and 0 GPUs, and one task asks for 1 and 0\.25; ask for less"):
            run(OnRay(num_gpus=0.25), [Task("a", "rayed_work:divide", {"x": 1})])

    def test_a_running_cluster_is_joined_by_its_address(self):
        address = ray.get_runtime_context().gcs_address
        code = (
            "from baddiffusion.executors import OnRay, Task\n"
            f"executor, task = OnRay({address!r}), Task('a', 'json:dumps', {{'obj': [1]}})\n"
            "print(executor.run([task], print, lambda outcome: None)[0].value)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "a\n[1]\n", "")

    def test_ctrl_c_cancels_what_is_under_way(self, tmp_path: Path):
        def stop(key: str) -> None:
            if key == "second":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            OnRay(workers=2).run([work(tmp_path, "first"), work(tmp_path, "second")], stop, lambda outcome: None)
        time.sleep(0.5)
        assert not list(tmp_path.glob("second.*"))
        assert ray.is_initialized()  # whose cluster it is ends it

    def test_at_most_so_many_at_once(self, tmp_path: Path):
        outcomes, _, _ = run(OnRay(workers=1), [work(tmp_path, str(i)) for i in range(2)])
        began = {path.name[0]: path.stat().st_mtime for path in tmp_path.glob("*.try-*")}
        ended = {path.name[0]: path.stat().st_mtime for path in tmp_path.glob("*.done-*")}
        assert ended["0"] <= began["1"]
        assert [outcome.status for outcome in outcomes] == ["done", "done"]


@pytest.mark.slow
def test_a_cluster_of_its_own_is_started_and_ended(tmp_path: Path):
    code = (
        "import ray\nfrom baddiffusion.executors import OnRay, Task\n"
        "task = Task('a', 'json:dumps', {'obj': [1]})\n"
        "print(OnRay('local', workers=3).run([task], print, lambda outcome: None)[0].value, ray.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\n[1] False\n", "")


TASK = Task("a", "json:dumps", {"obj": [1]})


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"ray is not installed; run: pip install 'baddiffusion\[ray\]'\."):
        run(OnRay(), [TASK])


def test_nothing_to_do_needs_no_cluster():
    assert run(OnRay("nowhere"), [])[0] == []


def refused(executor: OnRay) -> str:
    with pytest.raises(RunError) as raised:
        run(executor, [TASK])
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_address_is_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert refused(OnRay("nowhere")) == "the Ray address is 'nowhere'; write local, auto, host:port or ray://host:port."


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_where_nothing_listens_it_is_said_at_once(form: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = form.format(probe.getsockname()[1])
        began = time.monotonic()
        said = refused(OnRay(address))
    assert said == f"no Ray cluster at {address} ([Errno 111] Connection refused); start one, or use --ray local."
    assert time.monotonic() - began < 5


def test_what_listens_but_is_no_cluster_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(on_ray, "ANSWER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        said = refused(OnRay(address))
    assert said == f"no Ray cluster at {address} (no answer in 1 s); start one, or use --ray local."


def test_no_cluster_to_join(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(on_ray, "PROBE", "raise ConnectionError('Could not find any running Ray instance.')")
    said = refused(OnRay("auto"))
    assert said.startswith("no Ray cluster at auto (ConnectionError: Could not find any running Ray instance.)")


def test_a_cluster_that_is_not_let_in_to_is_said(monkeypatch: pytest.MonkeyPatch):
    def refuse(**options: object) -> None:
        assert options["include_dashboard"] is False
        raise RuntimeError("versions\ndiffer")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    assert refused(OnRay()) == "no Ray cluster at local (versions differ); start one, or use --ray local."
