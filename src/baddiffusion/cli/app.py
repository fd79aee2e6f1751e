"""The app that the verbs register with, and what becomes of their mistakes: one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter

from baddiffusion import __version__
from baddiffusion.cli.printing import note
from baddiffusion.errors import BadDiffusionError

__all__ = ["EXPERIMENT", "KEPT", "LOOK", "MEASURE", "OTHER", "Json", "Switch", "app", "call"]

EXPERIMENT = Group("Experiments", sort_key=1)
MEASURE = Group("Pictures and numbers", sort_key=2)
LOOK = Group("Looking things up", sort_key=3)
OTHER = Group("Further", sort_key=4)

RESUMABLE = frozenset(("bench", "demo", "evaluate", "matrix", "reproduce", "run", "sample", "sweep", "train", "zoo"))

KEPT = "What is finished is kept; the same command goes on from there."
"""What a resumable verb says when it is interrupted; one that only sometimes is raises ``KeyboardInterrupt(KEPT)``."""

Switch = Annotated[bool, Parameter(negative="", show_default=False)]
"""A flag that is off unless it is given."""

Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
"""The switch of every verb whose answer a program may want."""

app = App(
    name="baddiffusion",
    version=__version__,
    help="""Implant, sample and measure backdoors in diffusion models.

    Start with `baddiffusion demo`; `baddiffusion VERB --help` explains a verb.

    Exit codes: 0 done, 2 something to mend (told in one line), 3 suspicious or worse, 4 inconclusive, 130 interrupted,
    1 a bug in this program.
    """,
    help_format="markdown",
    help_flags=("--help", "-h"),
    version_flags=("--version",),
    suppress_keyboard_interrupt=False,
)


def call(tokens: Sequence[str]) -> int:
    """Run one command line.

    Args:
        tokens: the arguments, without the program's name.

    Returns:
        The exit code: 0 done; 2 a mistake of the user's, told in one line on stderr; 130 interrupted.

    Raises:
        Exception: anything that is our own bug, for its traceback.
    """
    try:
        answer = app(list(tokens), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        note(f"error: {_one_line(error)} See: baddiffusion {_verb(tokens)}--help")
        return 2
    except BadDiffusionError as error:
        note(f"error: {_one_line(error)}")
        return 2
    except KeyboardInterrupt as error:
        goes_on = _verb(tokens).strip() in RESUMABLE or KEPT in error.args
        note(f"interrupted. {KEPT}" if goes_on else "interrupted.")
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return answer if isinstance(answer, int) else 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _verb(tokens: Sequence[str]) -> str:
    return f"{tokens[0]} " if tokens and tokens[0] in app else ""
