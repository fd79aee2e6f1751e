"""The part of the tasks that one job of a job array carries out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from baddiffusion.errors import RecipeError

__all__ = ["shard"]

T = TypeVar("T")


def shard(tasks: Sequence[T], index: int, count: int) -> list[T]:
    """Choose every ``count``-th task, from the ``index``-th on: each stands in exactly one shard.

    Neighbors in a sweep often take equally long, so dealing them out in turn keeps the shards even. It depends on
    nothing but the order: jobs need not know of each other.

    Args:
        tasks: all of them, in the same order in every job.
        index: of this job, from 1 to ``count``, as job arrays count.
        count: how many jobs there are.

    Raises:
        RecipeError: the index lies outside [1, count], or the count below 1.

    Example:
        >>> shard(["a", "b", "c", "d", "e"], 2, 3)
        ['b', 'e']
    """
    if count < 1 or not 1 <= index <= count:
        raise RecipeError(f"shard is {index}/{count}; it must be i/n with 1 ≤ i ≤ n. Write 1/4 for the first of four.")
    return list(tasks[index - 1 :: count])
