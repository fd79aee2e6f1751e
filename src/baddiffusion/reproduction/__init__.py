"""Every table and figure of the paper by name: which cells it needs, and the paper's numbers beside what came out."""

from baddiffusion.reproduction.counting import Cost, cost_of
from baddiffusion.reproduction.experiments import EXCLUDED, EXPERIMENTS, Experiment, Preset, experiment_named
from baddiffusion.reproduction.joining import Reading, join
from baddiffusion.reproduction.lines import Line
from baddiffusion.reproduction.paper import PaperRow, paper_rows
from baddiffusion.reproduction.running import Reproduction, read_result, reproduce, tabulate, total_cost, train_cells

__all__ = [
    "EXCLUDED",
    "EXPERIMENTS",
    "Cost",
    "Experiment",
    "Line",
    "PaperRow",
    "Preset",
    "Reading",
    "Reproduction",
    "cost_of",
    "experiment_named",
    "join",
    "paper_rows",
    "read_result",
    "reproduce",
    "tabulate",
    "total_cost",
    "train_cells",
]
