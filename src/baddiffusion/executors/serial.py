"""One task after another, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baddiffusion.executors.executor import OnOutcome, OnStart, Outcome, Task, check_tasks, perform

__all__ = ["Serial"]


@dataclass(frozen=True)
class Serial:
    """Carry out one task after another, here: no start-up, all threads, and no protection from what kills a process.

    Example:
        >>> tasks = [Task("good", "json:dumps", {"obj": [1, 2]}), Task("bad", "json:loads", {"s": "{"})]
        >>> for outcome in Serial().run(tasks, print, lambda outcome: None):
        ...     print(outcome.status, outcome.value)
        good
        bad
        done [1, 2]
        failed None
    """

    def run(self, tasks: Sequence[Task], on_start: OnStart, on_outcome: OnOutcome) -> list[Outcome]:
        """Carry out all tasks; see `Executor`.

        Raises:
            RecipeError: two tasks have one key.
        """
        check_tasks(tasks)
        outcomes = []
        for task in tasks:
            on_start(task.key)
            outcomes.append(Outcome(task.key, **perform(task.call, task.argument)))
            on_outcome(outcomes[-1])
        return outcomes
