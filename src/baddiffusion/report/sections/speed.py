"""How fast this project is and how much memory it takes, as a page of the docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from baddiffusion.report.kit.markdown import markdown_table

__all__ = ["memory_section", "samplers_section", "speed_section"]

Net = Mapping[str, Any]
ROWS: tuple[tuple[str, Callable[[Net], str]], ...] = (
    ("parameters", lambda n: f"{n['parameters']:,}"),
    ("images", lambda n: "×".join(map(str, n["shape"]))),
    ("batch in training, chunk in sampling", lambda n: f"{n['batch']}, {n['chunk']}"),
    ("network computes in", lambda n: n["precision"]),
    ("matrix product of that format, GFLOP/s", lambda n: f"{n['matmul_gflops']:.0f}"),
    ("training, images/s", lambda n: f"{n['images_per_s']['training']:.1f}"),
    ("… share of the matrix-product rate", lambda n: f"{n['training_share_of_matmul']:.0%}"),
    ("… against the plain loop", lambda n: f"{n['training_against_plain']:.1f}×"),
    ("sampling, images/s per step", lambda n: f"{n['images_per_s']['sampling']:.1f}"),
    ("… share of the matrix-product rate", lambda n: f"{n['sampling_share_of_matmul']:.0%}"),
    ("… against the plain loop", lambda n: f"{n['sampling_against_plain']:.1f}×"),
    ("… against bare network calls", lambda n: f"{n['sampling_against_bare_calls']:.2f}×"),
)


def speed_section(results: Mapping[str, Any]) -> str:
    """Training and sampling of whole networks.

    Args:
        results: what ``benchmarks/speed.py`` wrote.
    """
    nets = results["nets"]
    rows = [["", *(net["preset"] for net in nets)]]
    rows += [[name, *(value(net) for net in nets)] for name, value in ROWS]
    said = "Medians of alternating rounds in one run on a shared, noisy machine: read the ratios."
    return f"{_made('speed', results)} {said}\n\n{markdown_table(rows)}"


def samplers_section(results: Mapping[str, Any]) -> str:
    """What each sampler costs beside its network.

    Args:
        results: what ``benchmarks/samplers.py`` wrote.
    """
    rows = [["sampler", "network calls", "calls/s", "against bare calls: median", "lowest to highest"]]
    for row in results["samplers"]:
        order = f", order {row['sampler']['order']}" if "order" in row["sampler"] else ""
        spread = f"{row['lowest']:.2f} to {row['highest']:.2f}"
        ratio = f"{row['sampling_against_bare_calls']:.3f}"
        name = f"`{row['sampler']['name']}`{order}"
        rows.append([name, str(row["network_calls"]), f"{row['calls_per_s']:.1f}", ratio, spread])
    below = [name for name, *_, ratio, _ in rows[1:] if float(ratio) < results["aim"]]
    kept = (
        f"All are at {results['aim']} or above"
        if not below
        else f"Below the aim of {results['aim']}: {', '.join(below)}"
    )
    said = (
        f"Network calls per second inside `sample()` over those of the bare network, {results['rounds']} paired rounds "
        f"of {results['steps']} steps, {results['n']} images a call ({results['preset']} net, {results['precision']}). "
        f"{kept}."
    )
    return f"{_made('samplers', results)} {said}\n\n{markdown_table(rows)}"


def memory_section(results: Mapping[str, Any]) -> str:
    """The largest resident set of the demo.

    Args:
        results: what ``benchmarks/memory.py`` wrote.
    """
    verdict = "below" if results["peak_mb"] < results["aim_mb"] else "not below"
    return (
        f"{_made('memory', results)} The recipe `{results['recipe']}`, its numbers of steps cut, takes at most "
        f"{results['peak_mb']:,} MB, Python and torch included: {verdict} the aim of {results['aim_mb']:,} MB."
    )


def _made(script: str, results: Mapping[str, Any]) -> str:
    threads = f"{results['threads']} thread{'' if results['threads'] == 1 else 's'}"
    return f"Made by `python benchmarks/{script}.py` on {results['device']}, {threads}, torch {results['torch']}."
