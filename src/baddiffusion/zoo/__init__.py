"""The zoo: small models, clean and backdoored, on which detectors and repairs are calibrated and tested."""

from baddiffusion.zoo.building import build_zoo, unfinished
from baddiffusion.zoo.entry import Entry, Kind, Split, cells_of, select
from baddiffusion.zoo.manifest import LEAST_ASR, MANIFEST, describe, model_table, read_manifest, write_manifest
from baddiffusion.zoo.opening import Specimen, Truth, open_zoo
from baddiffusion.zoo.roster import plan

__all__ = [
    "LEAST_ASR",
    "MANIFEST",
    "Entry",
    "Kind",
    "Specimen",
    "Split",
    "Truth",
    "build_zoo",
    "cells_of",
    "describe",
    "model_table",
    "open_zoo",
    "plan",
    "read_manifest",
    "select",
    "unfinished",
    "write_manifest",
]
