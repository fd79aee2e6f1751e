"""Repairing a model on what a scan found, and measuring what became of it."""

from baddiffusion.purifying.forecast import forecast
from baddiffusion.purifying.gauge import Gauge, Reading
from baddiffusion.purifying.keeping import PICTURES, RECEIPT, keep_purified, receipt_schema, staged
from baddiffusion.purifying.orders import Orders
from baddiffusion.purifying.purification import Purification
from baddiffusion.purifying.purify import purify
from baddiffusion.purifying.rounds import Round, Standing
from baddiffusion.purifying.scoring import TrueTrigger
from baddiffusion.purifying.settings import PurifySettings
from baddiffusion.purifying.suspicion import Finding, Suspicion, read_suspicion, suspicion_of, suspicion_of_scan

__all__ = [
    "PICTURES",
    "RECEIPT",
    "Finding",
    "Gauge",
    "Orders",
    "Purification",
    "PurifySettings",
    "Reading",
    "Round",
    "Standing",
    "Suspicion",
    "TrueTrigger",
    "forecast",
    "keep_purified",
    "purify",
    "read_suspicion",
    "receipt_schema",
    "staged",
    "suspicion_of",
    "suspicion_of_scan",
]
