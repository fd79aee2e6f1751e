"""``baddiffusion`` and ``python -m baddiffusion``."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

QUIET = {
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Libraries read these when they are imported, so they are set before; whatever the user set stays."""


def main() -> None:
    """Run the command line on ``sys.argv`` and exit with its code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from baddiffusion.cli import call

    sys.exit(call(sys.argv[1:]))


if __name__ == "__main__":
    main()
