"""The process of one model: forked, bounded, and ended with all that it started."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from baddiffusion.executors.executor import perform

__all__ = ["carry_out"]

Answer = dict[str, Any]

TICK_S = 0.05
"""How often the memory is looked at."""

GPU = "/dev/nvidiactl"
"""Where this is, drivers reserve far more address space than they use: only what is resident is bounded then."""

NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc")


def carry_out(task: Mapping[str, Any], ours: int) -> Answer:
    """Fork, call a function in the child, and see to it that it keeps to its limits.

    Args:
        task: ``call``, ``argument``, ``seconds`` and ``memory``, as `Warm.ask` sends them.
        ours: a file descriptor that can be read when whoever asked has ended.

    Returns:
        ``value``, or ``failed`` (time, memory, died or error) with ``why``, ``signal`` and ``exit_code``.
    """
    answers, theirs = os.pipe()
    leash, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        os.close(held)
        _run(task, theirs, leash)
    os.close(theirs)
    os.close(leash)
    with suppress(OSError):  # either side may be first
        os.setpgid(pid, pid)
    try:
        return _watch(pid, answers, ours, task.get("seconds"), task.get("memory"))
    finally:
        os.close(answers)
        os.close(held)


def _run(task: Mapping[str, Any], theirs: int, leash: int) -> None:
    """The child: it never returns."""
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
        faulthandler.enable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        memory = task.get("memory")
        if memory is not None and not os.path.exists(GPU):
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        threading.Thread(target=_end_with, args=(leash,), daemon=True).start()
        answer = perform(task["call"], task["argument"])
        with open(theirs, "wb") as out:
            out.write(json.dumps(answer).encode())
    finally:
        os._exit(0)


def _end_with(leash: int) -> None:
    """End this process and all that it started as soon as the one that watches it has ended."""
    with suppress(OSError):
        os.read(leash, 1)
    os.killpg(0, signal.SIGKILL)


def _watch(pid: int, answers: int, ours: int, seconds: float | None, memory: int | None) -> Answer:
    began, said = time.monotonic(), b""
    while True:
        left = None if seconds is None else began + seconds - time.monotonic()
        if left is not None and left <= 0:
            _end(pid)
            return _failed("time", f"it was stopped after {_duration(seconds or 0)}, the time limit")
        if memory is not None and _resident(pid) > memory:
            _end(pid)
            return _failed("memory", f"it was stopped when it held more than {_size(memory)}, the memory limit")
        waits = [one for one in (left, TICK_S if memory is not None else None) if one is not None]
        readable, _, _ = select.select([answers, ours], [], [], min(waits, default=None))
        if ours in readable:
            _end(pid)
            os._exit(0)  # whoever asked has ended
        if answers in readable:
            block = os.read(answers, 1 << 20)
            if not block:
                break
            said += block
    _, status = os.waitpid(pid, 0)
    with suppress(ProcessLookupError, PermissionError):  # what it started and left behind
        os.killpg(pid, signal.SIGKILL)
    if not said:
        return _death(status, memory)
    return _judged(json.loads(said), memory)


def _judged(answer: Answer, memory: int | None) -> Answer:
    """What a child that ended in order has to say."""
    if answer["status"] == "done":
        return {"value": answer["value"]}
    error = str(answer["error"])
    if "MemoryError" in error or any(words in error.lower() for words in NO_MEMORY):
        limit = f" within {_size(memory)}, the memory limit" if memory is not None else ""
        return _failed("memory", f"it ran out of memory{limit}")
    return _failed("error", error) | {"traceback": answer["traceback"]}


def _death(status: int, memory: int | None) -> Answer:
    number = os.waitstatus_to_exitcode(status)
    if number >= 0:
        return _failed("died", f"its process ended with exit code {number} and no answer") | {"exit_code": number}
    name = signal.Signals(-number).name
    hint = "; often the system ran out of memory" if name == "SIGKILL" else ""
    if memory is not None and name == "SIGABRT":
        hint = "; perhaps at the memory limit"
    return _failed("died", f"its process was killed by {name}{hint}") | {"signal": name}


def _failed(how: str, why: str) -> Answer:
    return {"failed": how, "why": why, "signal": None, "exit_code": None}


def _end(pid: int) -> None:
    """See to it that nothing is left of the child, and of what it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _resident(pid: int) -> int:
    """Bytes that the child holds; 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 90 else f"{seconds / 60:g} min"


def _size(memory: int) -> str:
    return f"{memory / (1 << 30):g} GiB"
