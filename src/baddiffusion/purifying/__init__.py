"""Repairing a model on what a scan found, and measuring what became of it."""

from baddiffusion.purifying.forecast import forecast
from baddiffusion.purifying.gauge import Gauge, Reading
from baddiffusion.purifying.keeping import PICTURES, RECEIPT, keep_purified, staged
from baddiffusion.purifying.purification import Purification
from baddiffusion.purifying.purify import Orders, purify
from baddiffusion.purifying.scoring import TrueTrigger
from baddiffusion.purifying.settings import PurifySettings
from baddiffusion.purifying.suspicion import Finding, Suspicion, read_suspicion, suspicion_of

__all__ = [
    "PICTURES",
    "RECEIPT",
    "Finding",
    "Gauge",
    "Orders",
    "Purification",
    "PurifySettings",
    "Reading",
    "Suspicion",
    "TrueTrigger",
    "forecast",
    "keep_purified",
    "purify",
    "read_suspicion",
    "staged",
    "suspicion_of",
]
