"""Metrics: attack success against the target, quality against real pictures, each with interval, n and protocol."""

from baddiffusion.metrics.acceptance import Acceptance, acceptance
from baddiffusion.metrics.comparing import comparable
from baddiffusion.metrics.distribution import (
    FD_LEAST,
    KD_LEAST,
    baseline,
    feature_frechet_distance,
    frechet_distance,
    kernel_distance,
    mmd_squared,
)
from baddiffusion.metrics.features import features
from baddiffusion.metrics.inception import Inception, PictureSet
from baddiffusion.metrics.intervals import bootstrap_interval, mean_interval, normal_interval, wilson
from baddiffusion.metrics.landmarks import failure_level, quantization_floor
from baddiffusion.metrics.metric import Better, Estimate, Protocol, Scalar
from baddiffusion.metrics.per_image import SSIM_WINDOW_PX, Picture, mse_per_image, ssim_per_image
from baddiffusion.metrics.perceptual import Perceptual
from baddiffusion.metrics.reference import reference_metrics
from baddiffusion.metrics.seeds import over_seeds
from baddiffusion.metrics.statistics import Gaussian, Moments
from baddiffusion.metrics.target import (
    FIRES,
    THRESHOLD,
    asr,
    asr_curve,
    false_trigger_rate,
    mse,
    mse_float,
    ssim,
)

__all__ = [
    "FD_LEAST",
    "FIRES",
    "KD_LEAST",
    "SSIM_WINDOW_PX",
    "THRESHOLD",
    "Acceptance",
    "Better",
    "Estimate",
    "Gaussian",
    "Inception",
    "Moments",
    "Perceptual",
    "Picture",
    "PictureSet",
    "Protocol",
    "Scalar",
    "acceptance",
    "asr",
    "asr_curve",
    "baseline",
    "bootstrap_interval",
    "comparable",
    "failure_level",
    "false_trigger_rate",
    "feature_frechet_distance",
    "features",
    "frechet_distance",
    "kernel_distance",
    "mean_interval",
    "mmd_squared",
    "mse",
    "mse_float",
    "mse_per_image",
    "normal_interval",
    "over_seeds",
    "quantization_floor",
    "reference_metrics",
    "ssim",
    "ssim_per_image",
    "wilson",
]
