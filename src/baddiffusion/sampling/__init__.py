"""Algorithm 2: seeds in, images out, over stock diffusers schedulers."""

from baddiffusion.sampling.clipping import ClipKind, Clipping
from baddiffusion.sampling.noise import NoiseTape, start_noise
from baddiffusion.sampling.record import Samples, SamplingRecord, SamplingSettings
from baddiffusion.sampling.sampler import Observation, sample
from baddiffusion.sampling.schedulers import SAMPLERS, Ddim, Ddpm, DpmSolverPlusPlus, SamplerDesign

__all__ = [
    "SAMPLERS",
    "ClipKind",
    "Clipping",
    "Ddim",
    "Ddpm",
    "DpmSolverPlusPlus",
    "NoiseTape",
    "Observation",
    "SamplerDesign",
    "Samples",
    "SamplingRecord",
    "SamplingSettings",
    "sample",
    "start_noise",
]
