"""Countermeasures: detectors look into a sealed checkpoint, repairs make another of it; neither can see the card."""

from baddiffusion.defenses.anp import Anp, Collapse, collapse
from baddiffusion.defenses.anp_pruning import AnpPruning
from baddiffusion.defenses.averaging import Averaging
from baddiffusion.defenses.defense import DETECTORS, REPAIRS, Detection, Detector, Method, Repair, Repaired
from baddiffusion.defenses.elijah import Elijah
from baddiffusion.defenses.elijah_removal import ElijahRemoval
from baddiffusion.defenses.finetuning import FineTuning
from baddiffusion.defenses.likelihood_ratio import LikelihoodRatio
from baddiffusion.defenses.noise_tests import NOISE_TESTS, StartNoise
from baddiffusion.defenses.pruning import Pruning
from baddiffusion.defenses.shift_equivariance import ShiftEquivariance
from baddiffusion.defenses.subject import Spent, Subject
from baddiffusion.defenses.terd import Terd
from baddiffusion.defenses.terd_input import log_likelihood_ratio

__all__ = [
    "DETECTORS",
    "NOISE_TESTS",
    "REPAIRS",
    "Anp",
    "AnpPruning",
    "Averaging",
    "Collapse",
    "Detection",
    "Detector",
    "Elijah",
    "ElijahRemoval",
    "FineTuning",
    "LikelihoodRatio",
    "Method",
    "Pruning",
    "Repair",
    "Repaired",
    "ShiftEquivariance",
    "Spent",
    "StartNoise",
    "Subject",
    "Terd",
    "collapse",
    "log_likelihood_ratio",
]
