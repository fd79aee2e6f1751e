"""Repair models whose truth is known: python benchmarks/purify.py MODEL… [--scan FOLDER…] [--output PATH]

MODEL is a checkpoint's folder, or packaged:NAME. The repair sees what a scan finds in the weights, nothing else. What
the card says is used to score: the success rate of the true trigger, before and after. Clean fine-tuning and Elijah's
removal are carried out on the same model at as many network calls. Each model's receipt is added to the file as soon as
it is there, in place of an earlier one of the same weights, so that models can be measured one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import torch

from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cli.implants import implant_of
from baddiffusion.cli.progress import Lines
from baddiffusion.defending import own_sampling, quality_sampling
from baddiffusion.defenses import ShiftEquivariance
from baddiffusion.hub import resolve
from baddiffusion.purifying import Orders, PurifySettings, TrueTrigger, keep_purified, purify
from baddiffusion.report.purify.page import write_receipt_page
from baddiffusion.sampling import SamplingSettings


def score_of(opened: Checkpoint, n: int, steps: int) -> TrueTrigger | None:
    """How the trigger of the card is measured; ancestral attacks in fewer steps than they were made for."""
    implant, _ = implant_of(opened, None, None)
    if implant is None:
        return None
    how = own_sampling(opened.card)
    timesteps = len(opened.schedule.betas)
    if how.sampler.component_name == "ddpm":
        how = SamplingSettings(sampler=how.sampler, num_inference_steps=min(steps, timesteps))
    return TrueTrigger(implant, how, n, quality_sampling(opened.card, timesteps), 256, None)


def one(model: str, scan: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """Repair one model; the receipt, with what the card says."""
    n, seed, keep, repair = options.n, options.seed, options.keep, ShiftEquivariance(steps=options.steps)
    path = resolve(model)
    opened = Checkpoint.open(path)
    orders = Orders(
        scan=scan,
        compare=True,
        score=score_of(opened, n, options.score_steps),
        repair=repair,
        seed=seed,
        settings=PurifySettings(n=n),
    )
    done = purify(path, orders, watcher=Lines())
    if keep is not None and done.model is not None:
        keep_purified(opened, done, keep)
        write_receipt_page(keep)
    return {**done.to_dict(), "named": _named(model), "card": _truth(opened.card)}


def _named(model: str) -> str:
    return Path(model).parent.name if Path(model).name == "checkpoint" else Path(model).name


def _truth(card: Card | None) -> list[Any] | None:
    return None if card is None or not card.backdoored else [card.attack, card.trigger, card.target]


def main() -> None:
    """Repair, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--scan", type=Path, nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=ShiftEquivariance().steps)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--score-steps", type=int, default=250, help="ancestral, of the true trigger")
    parser.add_argument("--keep", type=Path, help="write the repaired model with its page there (one model)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "purify.json")
    options = parser.parse_args()
    told = json.loads(options.output.read_text()) if options.output.exists() else {"receipts": []}
    scans = [*options.scan, *[None] * (len(options.models) - len(options.scan))]
    for model, scan in zip(options.models, scans, strict=True):
        receipt = one(model, scan, options)
        print(json.dumps(receipt, indent=1), flush=True)
        others = [each for each in told["receipts"] if each["digest"] != receipt["digest"]]
        told = {
            "device": f"{platform.machine()} {'cuda' if torch.cuda.is_available() else 'cpu'}",
            "threads": torch.get_num_threads(), "torch": torch.__version__, "receipts": [*others, receipt],
        }  # fmt: skip
        options.output.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
