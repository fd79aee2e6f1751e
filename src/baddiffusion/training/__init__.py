"""Training: settings, the random choices of a step, the state, the loop, trackers."""

from baddiffusion.training.loop import Job, train
from baddiffusion.training.meter import Progress
from baddiffusion.training.settings import TrainingSettings
from baddiffusion.training.state import TrainingState
from baddiffusion.training.tracking import require_tracker, tracking

__all__ = ["Job", "Progress", "TrainingSettings", "TrainingState", "require_tracker", "tracking", "train"]
