"""Training: settings, the random choices of a step, the state, the loop."""

from baddiffusion.training.loop import Job, Progress, train
from baddiffusion.training.settings import TrainingSettings
from baddiffusion.training.state import TrainingState

__all__ = ["Job", "Progress", "TrainingSettings", "TrainingState", "train"]
