"""A Ray cluster: this machine for a while, or one that runs already."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from baddiffusion.errors import RecipeError, RunError
from baddiffusion.executors.executor import Answer, OnOutcome, OnStart, Outcome, Task, check_tasks, perform

__all__ = ["OnRay"]

CONNECT_S = 5.0
"""How long an address may take to accept a connection."""

ANSWER_S = 40.0
"""How long a cluster may take to take a driver in; ray itself would try for two minutes and end the process then."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Read by ray when it is imported or started: nothing is reported to anyone, and no advice is printed."""

PROBE = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"


@dataclass(frozen=True)
class OnRay:
    """Tasks on the workers of a Ray cluster. One whose worker dies is tried again on another.

    On a cluster of several machines every machine needs this package and the same folder under the same path: tasks
    run in the folder that this process runs in.

    Args:
        address: ``local`` starts a cluster on this machine and ends it afterwards; ``auto`` or ``host:port`` or
            ``ray://host:port`` joins one.
        workers: how many tasks at once, at most; None takes as many as the cluster has room for.
        num_gpus: GPUs of each task; 0.25 puts four tasks on one.
        num_cpus: cores of each task, and its threads.
        retries: how often a task is tried again whose worker died.

    Raises:
        RecipeError: a number lies outside what Ray takes.

    Example:
        >>> OnRay("head:6379", num_gpus=0.5)
        OnRay(address='head:6379', workers=None, num_gpus=0.5, num_cpus=1.0, retries=1)
    """

    address: str = "local"
    workers: int | None = None
    num_gpus: float = 0.0
    num_cpus: float = 1.0
    retries: int = 1

    def __post_init__(self) -> None:
        for name, number, least in (("workers", self.workers, 1), ("retries", self.retries, 0)):
            if number is not None and number < least:
                raise RecipeError(f"{name} is {number}; it must be at least {least}.")
        if self.num_cpus <= 0:
            raise RecipeError(f"num_cpus is {self.num_cpus}; it must be more than 0.")
        if self.num_gpus < 0:
            raise RecipeError(f"num_gpus is {self.num_gpus}; it must be at least 0.")
        for name, amount in (("num_cpus", self.num_cpus), ("num_gpus", self.num_gpus)):
            if amount > 1 and amount != int(amount):
                raise RecipeError(f"{name} is {amount}; above 1 Ray takes whole numbers only.")

    def run(self, tasks: Sequence[Task], on_start: OnStart, on_outcome: OnOutcome) -> list[Outcome]:
        """Carry out all tasks; see `Executor`.

        Raises:
            RecipeError: two tasks have one key.
            RunError: ray is not installed, the cluster cannot be reached, or it has no room for a single task.
        """
        check_tasks(tasks)
        if not tasks:
            return []
        with self._cluster() as ray:
            remote = ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=0)(_carry_out)
            waiting, deaths, outcomes = deque(tasks), Counter[str](), dict[str, Outcome]()
            busy: dict[Any, Task] = {}
            try:
                while waiting or busy:
                    while waiting and len(busy) < self._room(ray, len(busy)):
                        task = waiting.popleft()
                        on_start(task.key)
                        call = remote.remote(os.getcwd(), math.ceil(self.num_cpus), task.call, dict(task.argument))
                        busy[call] = task
                    ended, _ = ray.wait(list(busy), num_returns=1)
                    task = busy.pop(ended[0])
                    answer, died = _answer(ray, ended[0])
                    deaths[task.key] += died
                    if died and deaths[task.key] <= self.retries:
                        waiting.appendleft(task)
                        continue
                    outcomes[task.key] = Outcome(task.key, **answer)
                    on_outcome(outcomes[task.key])
            finally:
                for call in busy:
                    with suppress(Exception):  # the cluster itself may be what ended
                        ray.cancel(call, force=True)
        return [outcomes[task.key] for task in tasks]

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Join or start the cluster, unless this process is in one; leave it as it was."""
        if find_spec("ray") is None:
            raise RunError("ray is not installed; run: pip install 'baddiffusion[ray]'.")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        import ray

        if ray.is_initialized():
            yield ray
            return
        if self.address != "local":
            _check_reachable(self.address)
        try:
            ray.init(**self._options())
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise _unreachable(self.address, " ".join(str(error).split())) from None
        try:
            yield ray
        finally:
            ray.shutdown()

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"address": self.address, "log_to_driver": False, "logging_level": logging.ERROR}
        if self.address != "local":
            return options
        cores = math.ceil(self.workers * self.num_cpus) if self.workers else None
        return {**options, "num_cpus": cores, "include_dashboard": False}

    def _room(self, ray: Any, held: int) -> int:
        """How many tasks the cluster can hold at once. Asked again and again: machines come and go.

        Raises:
            RunError: it holds none and has no room for any.
        """
        has = ray.cluster_resources()
        cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
        room = int(min(cpus / self.num_cpus, gpus / self.num_gpus if self.num_gpus else math.inf))
        if room < 1 and not held:
            raise RunError(
                f"the Ray cluster has {cpus:g} cores and {gpus:g} GPUs, and one task asks for {self.num_cpus:g} and "
                f"{self.num_gpus:g}; ask for less, or join a larger cluster."
            )
        return min(room, self.workers or room)


def _carry_out(folder: str, threads: int, call: str, argument: dict[str, Any]) -> Answer:
    """What a Ray worker runs: the threads are set before the task's module imports torch."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)))
    os.chdir(folder)
    return perform(call, argument)


def _answer(ray: Any, call: Any) -> tuple[Answer, bool]:
    """What a task came to, and whether its worker died over it."""
    try:
        return ray.get(call), False
    except ray.exceptions.RayTaskError as error:  # outside of the task itself: another version, no such folder
        cause = str(error).strip().splitlines()[-1]
        return {"status": "failed", "error": f"the worker could not begin: {cause}", "traceback": str(error)}, False
    except ray.exceptions.RayError as error:
        said = " ".join(str(error).split())
        return {"status": "lost", "error": f"its worker died: {said}", "traceback": None}, True


def _check_reachable(address: str) -> None:
    """Find out within a bounded time whether a cluster takes drivers in, and let a child process bear the waiting.

    Raises:
        RunError: nothing listens there, or what does is no cluster.
    """
    place = re.fullmatch(r"(?:ray://)?(\[[^\]]+\]|[^:/]+):(\d{1,5})", address)
    if place is None and address != "auto":
        raise RunError(f"the Ray address is {address!r}; write local, auto, host:port or ray://host:port.")
    if place is not None:
        try:
            socket.create_connection((place[1].strip("[]"), int(place[2])), CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, str(error)) from None
    command = [sys.executable, "-c", PROBE, address]
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer in {ANSWER_S:g} s") from None
    if probe.returncode:
        raise _unreachable(address, (probe.stderr.strip().splitlines() or ["it gave no reason"])[-1])


def _unreachable(address: str, why: str) -> RunError:
    return RunError(f"no Ray cluster at {address} ({why}); start one, or use --ray local.")
