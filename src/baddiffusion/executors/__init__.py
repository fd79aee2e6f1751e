"""Executors: who carries out the cells of a sweep, and which of them. Nothing heavy is imported before it is used."""

from baddiffusion.executors.executor import Executor, Outcome, Task
from baddiffusion.executors.on_ray import OnRay
from baddiffusion.executors.processes import Processes
from baddiffusion.executors.serial import Serial
from baddiffusion.executors.shard import shard

__all__ = ["Executor", "OnRay", "Outcome", "Processes", "Serial", "Task", "shard"]
