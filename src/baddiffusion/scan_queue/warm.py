"""One warm process: it has imported everything, and forks a child for each model.

Started as ``python -m baddiffusion.scan_queue.warm FD`` by `Warm`. It runs no tensor operation itself and has a single
thread: OpenMP does not survive a fork of a process that has used its threads. It never outlives whoever started it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from baddiffusion.errors import RunError

__all__ = ["Warm", "serve"]

Answer = dict[str, Any]

NEEDED = ("baddiffusion.scan_queue.examining",)
"""What a child would otherwise import again and again."""

LAST_CHARACTERS = 400


class Warm:
    """The warm process, seen from the one that asks. It starts when it is first needed, and again if it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, call: str, argument: Mapping[str, Any], seconds: float | None, memory: int | None) -> Answer:
        """Call a function in a child of the warm process.

        Args:
            call: ``module:function``.
            argument: its keywords, as JSON takes them.
            seconds: on the clock; None for any.
            memory: bytes; None for any.

        Returns:
            What `carry_out` returns.

        Raises:
            RunError: the warm process cannot start.
        """
        process = self._started()
        task = {"call": call, "argument": dict(argument), "seconds": seconds, "memory": memory}
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
        line = self._answers.readline()
        if line.endswith(b"\n"):
            return json.loads(line)
        code = process.wait()
        self.close()
        why = f"the process that forks {_ended(code)} while the model was scanned"
        return {"failed": "died", "why": why, "signal": None, "exit_code": code}

    def close(self) -> None:
        """End it, and with it the child that it may have."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._answers.close()
        self._said.close()
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        ours, theirs = os.pipe()
        self._answers = open(ours, "rb")  # noqa: SIM115 - closed by close()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "baddiffusion.scan_queue.warm", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=(theirs,),
                process_group=0,  # Ctrl-C reaches the one that asks, whose end ends this
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": _import_path()},
            )
        finally:
            os.close(theirs)
        if not self._answers.readline():
            code = self._process.wait()
            self._said.seek(0)
            words = " ".join(self._said.read().decode(errors="replace")[-LAST_CHARACTERS:].split())
            self.close()
            raise RunError(
                f"the process that scans models cannot start, it {_ended(code)}: {words or 'without a word'}"
            )
        return self._process


def serve(answers: int) -> NoReturn:
    """Fork a child for each line of the standard input, and answer with what it came to."""
    from baddiffusion.scan_queue.child import carry_out

    for name in NEEDED:
        import_module(name)
    os.set_inheritable(answers, False)
    os.write(answers, b"ready\n")
    given = os.dup(0)
    with open(os.devnull) as nothing:  # what a child starts must not read the tasks that follow
        os.dup2(nothing.fileno(), 0)
    rest = b""
    while True:
        while b"\n" not in rest:
            block = os.read(given, 1 << 16)
            if not block:
                os._exit(0)  # the ordinary end takes its time to take so much apart
            rest += block
        line, rest = rest.split(b"\n", 1)
        answer = carry_out(json.loads(line), given)
        os.write(answers, json.dumps(answer).encode() + b"\n")


def _ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _import_path() -> str:
    """What can be imported here can be imported there."""
    return os.pathsep.join(dict.fromkeys(entry or os.getcwd() for entry in sys.path))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
