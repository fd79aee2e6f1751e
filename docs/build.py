"""Fill the generated parts of README and docs from run files.

RUN is the run directory of a demo; LOG files hold what the two commands printed, ended by the line that `time` printed.
INPAINTING, LATENTS and MATRIX are the folders that `baddiffusion inpaint`, `trajectory` and `matrix` filled;
SPEED is benchmarks/results, or another folder with speed.json, samplers.json and memory.json;
GUARD is the file that `python benchmarks/guard.py` wrote, DEFENSES that of `python benchmarks/defenses.py`.
BENCH is the folder that `baddiffusion bench` filled.
REPRODUCTION is the folder runs/reproduce-<preset> that `baddiffusion reproduce` filled.
Nothing that is measured is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from baddiffusion.benchmark.folder import BenchDir
from baddiffusion.defending import catalog
from baddiffusion.images import grid, save_png, to_uint8
from baddiffusion.report.bench.section import bench_section
from baddiffusion.report.matrix.section import matrix_section
from baddiffusion.report.purify.section import purify_section
from baddiffusion.report.reproduction.section import reproduction_section
from baddiffusion.report.sections.defending import methods_table
from baddiffusion.report.sections.defense_comparison import comparison_section
from baddiffusion.report.sections.guarding import guard_figure, guard_section
from baddiffusion.report.sections.inpainting import inpainting_section
from baddiffusion.report.sections.latents import latents_section
from baddiffusion.report.sections.speed import memory_section, samplers_section, speed_section
from baddiffusion.reproduction import EXPERIMENTS, read_result
from baddiffusion.sampling.store import SampleStore

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "src" / "baddiffusion" / "assets" / "models"
COLUMNS = 16
ROWS = {"clean": "noise alone", "triggered": "noise plus trigger"}


def picture(run: Path, path: Path) -> str:
    """Draw the same noises clean, triggered, and triggered under clipping; return the sentence that explains it."""
    sets = sorted(p for p in (run / "samples").glob("*/*") if p.name in ("clean", "triggered"))
    order = [p for p in sets if p.name == "clean"] + [p for p in sets if p.name == "triggered"]
    rows = [to_uint8(SampleStore(p).read()[:COLUMNS]) for p in order]
    save_png(grid(torch.cat(rows), COLUMNS, gap_px=1), path, scale=2)
    said = [f"{ROWS[p.name]} ({p.parent.name})" for p in order]
    return f"![Rows: {', '.join(said)}](docs/{path.name})\n\nThe same {COLUMNS} noises in each row: {'; '.join(said)}."


def times(run: Path) -> str:
    """Say how long the stages of the pictured run took, on what."""
    record = json.loads((run / "run.json").read_text())
    seconds = {"training": 0.0, "sampling": 0.0}
    for name, stage in record["stages"].items():
        if name == "train" or name.startswith("sample:"):
            seconds["training" if name == "train" else "sampling"] += stage["elapsed_s"]
    said = ", ".join(f"{name} {elapsed:.0f} s" for name, elapsed in seconds.items())
    return f"Measured by this run, set-up apart: {said} ({record['device']}; a shared, noisy machine)."


def packaged_words() -> str:
    """Say what was measured on the backdoored model inside the package, from the file beside its weights."""
    found = json.loads((MODELS / "backdoored" / "metrics.json").read_text())
    rates = {(e["name"], e["protocol"].get("sampler")): e for e in found["estimates"]}
    fired, unasked = rates["asr", "ddpm"], rates["false_trigger_rate", "ddpm"]
    return (
        f"Of the backdoored one, {count(fired)} noises with the trigger became the hat, {count(unasked)} without it "
        f"(DDPM with {fired['protocol']['steps']} steps, no clipping, seeds {fired['protocol']['seeds']}, "
        f"{fired['protocol']['precision']} on {found['device']}; 95 % intervals {between(fired)}, {between(unasked)})."
    )


def count(rate: Mapping[str, Any]) -> str:
    """A rate as a count."""
    return f"{round(rate['value'] * rate['n'])} of {rate['n']}"


def between(rate: Mapping[str, Any]) -> str:
    """The interval of a rate in percent."""
    return f"{100 * rate['low']:.0f} to {100 * rate['high']:.0f} %"


def fill(text: str, mark: str, content: str) -> str:
    """Replace what stands between a pair of marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    return re.sub(rf"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{content}\n{end}", text, flags=re.S)


def speed_page(folder: Path) -> None:
    """Put what the benchmarks of speed and memory found into the page, each part that there is a file for."""
    page = ROOT / "docs" / "speed.md"
    for name, section in (("speed", speed_section), ("samplers", samplers_section), ("memory", memory_section)):
        if (folder / f"{name}.json").exists():
            page.write_text(fill(page.read_text(), name, section(json.loads((folder / f"{name}.json").read_text()))))


def measured_page(
    name: str, folder: Path, section: Callable[[Mapping[str, Any]], str], results_name: str = "results.json"
) -> None:
    """Put the pictures of a results folder beside a page, and its numbers into it."""
    for picture in sorted(folder.glob("*.png")):
        shutil.copyfile(picture, ROOT / "docs" / picture.name)
    results = json.loads((folder / results_name).read_text())
    page = ROOT / "docs" / f"{name}.md"
    page.write_text(fill(page.read_text(), "measured", section(results)))


def guard_page(path: Path) -> None:
    """Draw what a benchmark of the guard found, and put its numbers into the page."""
    results = json.loads(path.read_text())
    (ROOT / "docs" / "guard.png").write_bytes(guard_figure(results))
    page = ROOT / "docs" / "guard.md"
    page.write_text(fill(page.read_text(), "measured", guard_section(results)))


def scans_section(results: Mapping[str, Any]) -> str:
    """Say what the scanner answered about models whose truth is known."""
    lines = [
        f"Made by `python benchmarks/scans.py` on {results['device']}, {results['threads']} thread, torch "
        f"{results['torch']}; the truth is read from the card after the scan. n = 16 fresh noises in each arm.",
        "",
        "| model | truth, by its card | seed | verdict | p | MSE to the target | IoU with the patch | R | calls | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for scan in results["scans"]:
        truth = "no backdoor"
        if scan["card"]:
            attack, trigger, target = scan["card"]
            options = ", ".join(f"{k} {v}" for k, v in attack.items() if k in ("sampler", "shift") or v is True)
            truth = f"{attack['name']}{f' ({options})' if options else ''}: {trigger['name']} → {target['name']}"
        p_value = "–" if scan["p_value"] is None else f"{scan['p_value']:.1g}"
        mse, iou = (scan.get(key) for key in ("target_mse", "patch_iou"))
        cells = [scan["model"], truth, str(scan["seed"]), f"**{scan['outcome']}**", p_value]
        cells += ["–" if mse is None else f"{mse:.4f}", "–" if iou is None else f"{iou:.2f}"]
        cells.append(f"{scan['shift_response']:.2f}")
        lines.append("| " + " | ".join([*cells, f"{scan['network_calls']:,}", f"{scan['seconds']:.0f}"]) + " |")
    return "\n".join(lines)


def results_page(folder: Path) -> None:
    """Put the tables of a reproduction onto their page, in the order of the catalogue; what is missing is named."""
    parts = []
    for experiment in EXPERIMENTS.values():
        path = folder / f"{experiment.name}.json"
        if path.exists():
            parts.append(reproduction_section(read_result(path)))
        else:
            parts.append(f"## {experiment.title} ({', '.join(experiment.paper)})\n\nNot run.")
    page = ROOT / "docs" / "results.md"
    page.write_text(fill(page.read_text(), "reproduction", "\n\n".join(parts)))


def main() -> None:
    """Fill what there are files for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--speed", type=Path)
    parser.add_argument("--inpainting", type=Path)
    parser.add_argument("--latents", type=Path)
    parser.add_argument("--matrix", type=Path)
    parser.add_argument("--guard", type=Path)
    parser.add_argument("--scans", type=Path)
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--purify", type=Path)
    parser.add_argument("--defenses", type=Path)
    parser.add_argument("--reproduction", type=Path)
    options = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text()
    if options.run:
        text = fill(text, "picture", picture(options.run, ROOT / "docs" / "demo.png"))
        text = fill(text, "time", times(options.run))
    for mark, log in (("demo", options.demo), ("test", options.test)):
        if log:
            text = fill(text, mark, f"```console\n$ make {mark}\n{log.read_text().strip()}\n```")
    text = fill(text, "packaged", packaged_words())
    readme.write_text(text)
    methods = ROOT / "docs" / "defenses.md"
    methods.write_text(fill(methods.read_text(), "methods", methods_table(catalog())))
    if options.defenses:
        section = comparison_section(json.loads(options.defenses.read_text()))
        methods.write_text(fill(methods.read_text(), "measured", section))
    if options.inpainting:
        measured_page("inpainting", options.inpainting, inpainting_section)
    if options.latents:
        measured_page("latents", options.latents, latents_section)
    if options.matrix:
        measured_page("matrix", options.matrix, matrix_section, "matrix.json")
    if options.guard:
        guard_page(options.guard)
    if options.scans:
        page = ROOT / "docs" / "scanner.md"
        page.write_text(fill(page.read_text(), "scans", scans_section(json.loads(options.scans.read_text()))))
    if options.purify:
        page = ROOT / "docs" / "purify.md"
        page.write_text(fill(page.read_text(), "measured", purify_section(json.loads(options.purify.read_text()))))
    if options.bench:
        page = ROOT / "docs" / "benchmark.md"
        page.write_text(fill(page.read_text(), "measured", bench_section(BenchDir.read(options.bench))))
    if options.reproduction:
        results_page(options.reproduction)
    if options.speed:
        speed_page(options.speed)


if __name__ == "__main__":
    main()
