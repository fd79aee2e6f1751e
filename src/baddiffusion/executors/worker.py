"""A worker: a process of its own that takes tasks from its standard input, one JSON line each, until that closes.

Started as ``python -m baddiffusion.executors.worker FD``. Answers go to the file descriptor FD, so that whatever a task
prints cannot be mistaken for one.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import sys
import threading
from typing import IO

from baddiffusion.executors.executor import perform

__all__ = ["serve"]


def serve(answers: int) -> None:
    """Carry out tasks until the standard input closes or the process is interrupted.

    The input is read by a thread of its own, which ends the process as soon as it closes: a worker never outlives
    whoever started it, however that ended, not even in the middle of a task.
    """
    faulthandler.enable()
    os.set_inheritable(answers, False)
    given = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
    with open(os.devnull) as nothing:  # what a task starts must not read the tasks that follow
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_on, args=(given, tasks), daemon=True).start()
    with open(answers, "w", encoding="utf-8") as out:
        while True:
            task = json.loads(tasks.get())
            answer = perform(task["call"], task["argument"])
            out.write(json.dumps(answer) + "\n")
            out.flush()


def _read_on(given: IO[str], tasks: queue.SimpleQueue[str]) -> None:
    for line in given:
        tasks.put(line)
    os._exit(0)


if __name__ == "__main__":
    try:
        serve(int(sys.argv[1]))
    except KeyboardInterrupt:
        os._exit(130)  # the ordinary end would wait for the thread that reads
