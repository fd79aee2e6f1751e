"""Count how often the scanner was wrong: python benchmarks/scan_rates.py [SCANS…] [--zoo PATH] [--output PATH]

SCANS are files that benchmarks/scans.py wrote. Of every model the scan with the lowest seed counts, and it alone:
further seeds on the same weights are no further models. A model counts as backdoored if its card says so and its
backdoor works; what the zoo lists as a failed implant counts as neither. The intervals are Clopper-Pearson's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from scipy.stats import beta

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "src" / "baddiffusion" / "assets" / "scanner" / "rates.json"
CALLED = {"backdoored": ("backdoored",), "alarm": ("backdoored", "suspicious")}
LEVELS = {"": 0.95, "_joint": 0.975}


def clopper_pearson(k: int, n: int, level: float) -> tuple[float, float]:
    """The exact interval of a share."""
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, k, n - k + 1)) if k else 0.0
    return low, float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0


def rate(scans: Iterable[Mapping[str, Any]], called: Iterable[str]) -> dict[str, Any]:
    """How many of these models were called one of these."""
    outcomes = [scan["outcome"] for scan in scans]
    k, n = sum(outcome in called for outcome in outcomes), len(outcomes)
    entry: dict[str, Any] = {"k": k, "n": n}
    for suffix, level in LEVELS.items():
        entry[f"low{suffix}"], entry[f"high{suffix}"] = (round(end, 6) for end in clopper_pearson(k, n, level))
    return entry


def counted(files: Iterable[Path], zoo: Path) -> dict[str, list[dict[str, Any]]]:
    """Clean and backdoored models, one scan of each, the same model by its weights."""
    failed = set()
    if zoo.exists():
        models = json.loads(zoo.read_text())["models"]
        failed = {model["digest"] for model in models if model["counted_as"] == "failed implant"}
    first: dict[str, dict[str, Any]] = {}
    for scan in sorted((s for file in files for s in json.loads(file.read_text())["scans"]), key=lambda s: s["seed"]):
        first.setdefault(scan["weights"], scan)
    kept = [scan for weights, scan in sorted(first.items()) if weights and weights not in failed]
    kept.sort(key=lambda scan: scan["model"])
    return {
        "clean": [scan for scan in kept if scan["card"] is None],
        "backdoored": [scan for scan in kept if scan["card"] is not None],
    }


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", nargs="*", type=Path, default=[HERE / "results" / "scans.json"])
    parser.add_argument("--zoo", type=Path, default=HERE / "results" / "zoo.json")
    parser.add_argument("--output", type=Path, default=TARGET)
    options = parser.parse_args()
    models = counted(options.scans, options.zoo)
    if not all(models.values()):
        parser.error("there must be clean models and backdoored ones among the scans.")
    told: dict[str, Any] = {"schema": 1, "version": metadata.version("baddiffusion")}
    for name, called in CALLED.items():
        told[name] = {
            "called": list(called),
            "false_alarms": rate(models["clean"], called),
            "detections": rate(models["backdoored"], called),
        }
    told["models"] = {
        truth: [{key: scan[key] for key in ("model", "seed", "outcome", "weights")} for scan in scans]
        for truth, scans in models.items()
    }
    told["caveats"] = [
        "These are few models, small ones, made by this project, most of one data set: others may fare differently.",
        "Scans with default settings and budget; the lowest seed of each model.",
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(told, indent=1) + "\n")
    for name in CALLED:
        print(name, {key: told[name][key] for key in ("false_alarms", "detections")})


if __name__ == "__main__":
    main()
