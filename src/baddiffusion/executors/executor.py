"""What is executed, and what comes of it: a task names a function, so that any process can carry it out."""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, runtime_checkable

from baddiffusion.errors import BadDiffusionError, RecipeError, RunError

__all__ = ["Answer", "Executor", "OnOutcome", "OnStart", "Outcome", "Task", "check_tasks", "perform"]

Answer = dict[str, Any]
"""What a worker sends back: the fields of an `Outcome` but its key, as JSON values."""


@dataclass(frozen=True)
class Task:
    """A function to call in some process, by name; nothing but JSON travels there.

    Args:
        key: unique among the tasks, and safe as a file's name.
        call: ``module:function``, importable in a fresh process; it is called with ``argument`` as keywords.
        argument: JSON values by name.

    Raises:
        RecipeError: the key is no file name, the call no ``module:function``, or JSON cannot hold the argument.

    Example:
        >>> Task("first", "json:dumps", {"obj": [1, 2]})
        Task(key='first', call='json:dumps', argument={'obj': [1, 2]})
    """

    key: str
    call: str
    argument: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.key):
            raise RecipeError(
                f"task key is {self.key!r}; it must be safe as a file's name: letters, digits, '.', '_' and '-'."
            )
        if not re.fullmatch(r"[\w.]+:\w+", self.call):
            raise RecipeError(f"call of task {self.key} is {self.call!r}; write module:function.")
        try:
            json.dumps(dict(self.argument), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"argument of task {self.key} is not JSON ({error}); give plain values.") from None


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Args:
        key: of the task.
        status: ``done``; ``failed`` if the function raised; ``lost`` if its worker died more often than it is tried.
        value: what the function returned, as JSON holds it.
        error: one line about what went wrong.
        traceback: of what the function raised; of a lost task the last that its worker said, if anything.
        elapsed_s: how long the function took, the last time.
    """

    key: str
    status: Literal["done", "failed", "lost"]
    value: Any = None
    error: str | None = None
    traceback: str | None = None
    elapsed_s: float = 0.0


OnStart = Callable[[str], None]
OnOutcome = Callable[[Outcome], None]


@runtime_checkable
class Executor(Protocol):
    """Who carries tasks out."""

    def run(self, tasks: Sequence[Task], on_start: OnStart, on_outcome: OnOutcome) -> list[Outcome]:
        """Carry out all tasks; one that fails does not stop the others.

        Args:
            tasks: in the order in which they are begun.
            on_start: told the key of a task whenever a worker takes it up; called in this process.
            on_outcome: told what became of each task; called in this process.

        Returns:
            One outcome for each task, in their order.

        Raises:
            RecipeError: two tasks have one key.
            KeyboardInterrupt: goes on to the caller, once the workers have ended.
        """
        ...


def check_tasks(tasks: Sequence[Task]) -> None:
    """Refuse two tasks with one key.

    Raises:
        RecipeError: the key stands twice.
    """
    seen: set[str] = set()
    for task in tasks:
        if task.key in seen:
            raise RecipeError(f"task key {task.key!r} stands twice; every task needs a key of its own.")
        seen.add(task.key)


def perform(call: str, argument: Mapping[str, Any]) -> Answer:
    """Call a task's function here, and say what came of it.

    The user's mistakes keep their own line; of anything else the kind is said as well.

    Returns:
        The fields of an `Outcome` but its key. The value is what JSON makes of it, in every executor alike.
    """
    started = time.perf_counter()
    answer: Answer = {"status": "done", "value": None, "error": None, "traceback": None}
    try:
        answer["value"] = _as_json(_function(call)(**argument))
    except BadDiffusionError as error:
        answer |= {"status": "failed", "error": _one_line(error), "traceback": traceback.format_exc()}
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {_one_line(error)}"
        answer |= {"status": "failed", "error": said, "traceback": traceback.format_exc()}
    return answer | {"elapsed_s": round(time.perf_counter() - started, 3)}


def _function(call: str) -> Callable[..., Any]:
    module, _, name = call.partition(":")
    return getattr(import_module(module), name)


def _as_json(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise RunError(f"the task returned what JSON cannot hold ({error}); return plain values.") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
