"""Pure maths: schedules, forward tables, residuals. Float64, no device logic, no files."""

from baddiffusion.diffusion.forward import Denoiser, ForwardTable, denoising_loss
from baddiffusion.diffusion.residual import ancestral_residual
from baddiffusion.diffusion.reverse import posterior_mean, posterior_variance, predict_x_0
from baddiffusion.diffusion.schedule import NoiseSchedule

__all__ = [
    "Denoiser",
    "ForwardTable",
    "NoiseSchedule",
    "ancestral_residual",
    "denoising_loss",
    "posterior_mean",
    "posterior_variance",
    "predict_x_0",
]
