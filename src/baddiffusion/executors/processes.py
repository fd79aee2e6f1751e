"""Several processes on this machine. One that dies costs only the task that it held."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from baddiffusion.errors import RecipeError
from baddiffusion.executors.executor import Answer, OnOutcome, OnStart, Outcome, Task, check_tasks

__all__ = ["Processes"]

GRACE_S = 10.0
"""How long an interrupted worker may take to say so in its run directory."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Read by torch and numpy when they are imported, so they are set before the worker starts."""

LAST_LINES = 20


@dataclass(frozen=True)
class Processes:
    """Fresh interpreters, each used for one task after another: torch is imported once for each.

    Args:
        workers: how many at once.
        threads: for each; None divides the cores that this process may use (or ``OMP_NUM_THREADS``, if that is less)
            among the workers.
        retries: how often a task is tried again whose worker died: was killed, or ran out of memory.

    Raises:
        RecipeError: workers or threads are below 1, or retries below 0.

    Example:
        >>> Processes(workers=2, threads=1)
        Processes(workers=2, threads=1, retries=1)
    """

    workers: int
    threads: int | None = None
    retries: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (
            ("workers", self.workers, 1),
            ("threads", self.threads, 1),
            ("retries", self.retries, 0),
        ):
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}; it must be at least {least}.")

    @property
    def threads_each(self) -> int:
        """Threads of one worker."""
        return self.threads or max(1, _cores() // self.workers)

    def run(self, tasks: Sequence[Task], on_start: OnStart, on_outcome: OnOutcome) -> list[Outcome]:
        """Carry out all tasks; see `Executor`.

        Raises:
            RecipeError: two tasks have one key.
        """
        check_tasks(tasks)
        waiting, deaths, outcomes = deque(tasks), Counter[str](), dict[str, Outcome]()
        idle: list[_Worker] = []
        busy: list[_Worker] = []
        try:
            while waiting or busy:
                while waiting and len(busy) < self.workers:
                    on_start(waiting[0].key)
                    busy.append(idle.pop() if idle else _Worker(self.threads_each))
                    busy[-1].give(waiting.popleft())
                heard = wait([worker.fileno() for worker in busy])
                for worker in [worker for worker in busy if worker.fileno() in heard]:
                    task, answer = worker.take()
                    busy.remove(worker)
                    if answer is None:
                        deaths[task.key] += 1
                        worker.end()
                        if deaths[task.key] <= self.retries:
                            waiting.appendleft(task)
                            continue
                        answer = _lost(worker, deaths[task.key])
                    elif waiting:
                        idle.append(worker)
                    else:
                        worker.end()
                    outcomes[task.key] = Outcome(task.key, **answer)
                    on_outcome(outcomes[task.key])
        finally:
            _stop(busy, idle)
        return [outcomes[task.key] for task in tasks]


class _Worker:
    """A process that `executors.worker` runs in, with the pipes to and from it."""

    def __init__(self, threads: int) -> None:
        ours, theirs = os.pipe()
        self._answers = open(ours, encoding="utf-8")  # noqa: SIM115 - closed by end()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._task: Task | None = None
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "baddiffusion.executors.worker", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=self._said,
                stderr=self._said,
                pass_fds=(theirs,),
                process_group=0,  # Ctrl-C reaches this process alone, which then tells the worker
                env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "PYTHONPATH": _import_path()},
                encoding="utf-8",
            )
        finally:
            os.close(theirs)

    def fileno(self) -> int:
        """Readable when there is an answer, or when the process has ended."""
        return self._answers.fileno()

    def give(self, task: Task) -> None:
        """Hand a task over. A process that has ended meanwhile is noticed when its answer is awaited."""
        self._task = task
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"call": task.call, "argument": dict(task.argument)}) + "\n")
            self.process.stdin.flush()

    def take(self) -> tuple[Task, Answer | None]:
        """The task at hand and its answer; None if the process ended without one."""
        assert self._task is not None
        task, self._task = self._task, None
        line = self._answers.readline()
        return task, json.loads(line) if line.endswith("\n") else None

    def interrupt(self) -> None:
        """Tell it what Ctrl-C tells: to stop, and to say so in its run directory."""
        if self._task is not None:
            self.process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """See to it that nothing is left of the process, whatever it does; keep what it said last."""
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):  # a task that it never read
            assert self.process.stdin is not None
            self.process.stdin.close()
        self._answers.close()
        self._said.seek(0)
        self.last_words = "".join(self._said.read().decode(errors="replace").splitlines(keepends=True)[-LAST_LINES:])
        self._said.close()


def _stop(busy: Sequence[_Worker], idle: Sequence[_Worker]) -> None:
    """End all workers; a second Ctrl-C does not wait for those at work."""
    deadline = time.monotonic() + GRACE_S
    try:
        for worker in busy:
            worker.interrupt()
        for worker in busy:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in (*busy, *idle):
            worker.end()


def _lost(worker: _Worker, times: int) -> Answer:
    code = worker.process.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    often = f"{times} times" if times > 1 else "once"
    hint = "; often the system ran out of memory: use fewer workers" if code == -signal.SIGKILL else ""
    said: dict[str, Any] = {"traceback": worker.last_words or None}
    return {"status": "lost", "error": f"its process {how} ({often}){hint}.", **said}


def _cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed, int(asked)) if asked.isdecimal() and int(asked) else allowed


def _import_path() -> str:
    """What can be imported here can be imported there."""
    return os.pathsep.join(dict.fromkeys(entry or os.getcwd() for entry in sys.path))
