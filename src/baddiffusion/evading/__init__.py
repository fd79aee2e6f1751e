"""Attackers who know how scanners look: which decoys they train beside their backdoor."""

from baddiffusion.evading.design import DECOYS, DecoyDesign
from baddiffusion.evading.known_probes import KnownProbes
from baddiffusion.evading.near_misses import NearMisses

__all__ = ["DECOYS", "DecoyDesign", "KnownProbes", "NearMisses"]
