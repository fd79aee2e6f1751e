"""Shapes in signatures are checked during tests; matplotlib and Hugging Face stay quiet and offline."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

from jaxtyping import install_import_hook

install_import_hook("baddiffusion", "beartype.beartype")
