"""Chains watched from inside: frames after the paper's Fig. 11, the bias of their noise, and both as a section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from baddiffusion.report.kit.markdown import markdown_table
from baddiffusion.report.kit.sheets import STYLE, Block, Strip, png_of, sheet
from baddiffusion.report.kit.tables import find
from baddiffusion.report.kit.wording import Count, target_words, trigger_words
from baddiffusion.trajectory import BiasCurve, Trajectory

__all__ = ["bias_figure", "latents_section", "latents_sheet"]

STARTS = {"clean": "noise alone", "triggered": "noise plus trigger"}
LARGEST = 1.75
"""Bias that the figure shows: the last steps divide what is left of the picture's error by almost no noise."""
OFF, CLIPPED, MUTED = "#1f6fb2", "#c2410c", "#777777"


def latents_sheet(trajectories: Sequence[Trajectory]) -> bytes:
    """Draw x_t and the predicted x_0 of one image at some steps: a strip for each start, two rows for each clip.

    Returns:
        A PNG.
    """
    strips = []
    for kind, title in STARTS.items():
        chains = [chain for chain in trajectories if chain.kind == kind]
        if chains:
            columns = [f"t = {chains[0].timesteps[step]}" for step in chains[0].pictured]
            rows = [(name, frames) for chain in chains for name, frames in _rows(chain)]
            strips.append(Strip([name for name, _ in rows], [Block(title, [frames for _, frames in rows], columns)]))
    return sheet(strips)


def _rows(chain: Trajectory) -> list[tuple[str, Any]]:
    how = "clip off" if chain.record.clip == "off" else f"clip {chain.record.clip}"
    return [(f"$x_t$, {how}", chain.x_t), (f"predicted $x_0$, {how}", chain.x_0)]


def bias_figure(curves: Sequence[BiasCurve]) -> bytes:
    """Draw the mean implied noise over the steps, a panel for each region: network solid, theory dashed.

    Returns:
        A PNG.
    """
    names = list(dict.fromkeys(curve.region for curve in curves))
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(names) + 0.2, 3.3), layout="constrained", facecolor="white")
        for index, name in enumerate(names):
            axes = figure.add_subplot(1, len(names), index + 1)
            _panel(axes, [curve for curve in curves if curve.region == name], first=index == 0)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
        return png_of(figure)


def _panel(axes: Axes, curves: Sequence[BiasCurve], first: bool) -> None:
    for curve in curves:
        color = OFF if curve.clip == "off" else CLIPPED
        theory = curve.source == "theory"
        label = f"{'perfect denoiser' if theory else 'network'}, clip {curve.clip}"
        line, width = ("--", 1.3) if theory else ("-", 1.9)
        axes.plot(curve.timesteps, curve.mean, line, color=color, linewidth=width, label=label)
        if not theory:
            axes.fill_between(curve.timesteps, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
    where = {"background": "background", "trigger": "inside the trigger"}[curves[0].region]
    axes.set_title(f"{where} (r = {curves[0].r:.2g})".replace("-", "−"), loc="left", weight="bold", size=9)
    axes.set_xlabel("t (sampling goes to the right)")
    if first:
        axes.set_ylabel("mean implied noise (std. dev.)")
    axes.set_xlim(max(curves[0].timesteps), 0)
    axes.set_ylim(-LARGEST, LARGEST)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def latents_section(results: Mapping[str, Any]) -> str:
    """The numbers of a results file in words and a table, as Markdown.

    Args:
        results: what ``baddiffusion trajectory`` wrote into ``results.json``.
    """
    estimates, clips = results["estimates"], results["clips"]
    protocol, n = estimates[0]["protocol"], estimates[0]["n"]
    counts = {clip: Count.of(find(estimates, "asr", clip=clip) or estimates[0]) for clip in clips}
    said = ", ".join(f"clip {clip}: {count}" for clip, count in counts.items())
    return (
        f"Model `{results['model']}`, {n} noises with {trigger_words(results['trigger'])}, {protocol['sampler']} with "
        f"{protocol['steps']} steps. Chains that end at {target_words(results['target'])}: {said}.\n\n"
        f"Implied noise: {results['definition']}. Its mean over a region, in standard deviations: measured on the "
        f"network, and in brackets what a perfect denoiser gives under the same sampler, clipping and noises.\n\n"
        f"{_table(results)}\n\nTowards t = 0 it says little: what a picture lacks of the target is divided by almost "
        f"no noise."
    )


def _table(results: Mapping[str, Any]) -> str:
    estimates, clips = results["estimates"], results["clips"]
    found = [estimate for estimate in estimates if estimate["name"] == "implied_noise_bias"]
    places = list(dict.fromkeys((e["protocol"]["region"], e["protocol"]["r"]) for e in found))
    head = ["t", *(f"{region} (r = {r:.2g}), clip {clip}".replace("-", "−") for region, r in places for clip in clips)]
    rows = [head]
    for timestep in dict.fromkeys(estimate["protocol"]["timestep"] for estimate in found):
        cells = [str(timestep)]
        for region, _ in places:
            for clip in clips:
                measured = find(found, "implied_noise_bias", clip=clip, region=region, timestep=timestep)
                cells.append(f"{_signed(measured)} [{_theory(results['curves'], clip, region, timestep)}]")
        rows.append(cells)
    return markdown_table(rows)


def _signed(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    return _short(estimate["value"])


def _theory(curves: Sequence[Mapping[str, Any]], clip: str, region: str, timestep: int) -> str:
    for curve in curves:
        if (curve["source"], curve["clip"], curve["region"]) == ("theory", clip, region):
            at = min(range(len(curve["timesteps"])), key=lambda k: abs(curve["timesteps"][k] - timestep))
            return _short(curve["mean"][at])
    return "–"


def _short(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")
