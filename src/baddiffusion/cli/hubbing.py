"""Verbs that exchange models with the hub: pull, push."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from baddiffusion.cli.app import OTHER, Json, Switch, app
from baddiffusion.cli.printing import count, note, say, say_json, table

if TYPE_CHECKING:
    from baddiffusion.hub import Parcel, PullPlan

__all__ = ["pull", "push"]


@app.command(group=OTHER)
def pull(
    name: str,
    folder: Path | None = None,
    /,
    *,
    sha256: str | None = None,
    lock: Path | None = None,
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Download a model of the Hugging Face hub into a folder: JSON, safetensors and README, nothing else.

    The commit that the name stands for is pinned: pulled.json beside the files records it with the hash of each. The
    same command again verifies them and downloads nothing.

    Example: `baddiffusion pull google/ddpm-cifar10-32 ddpm`, `baddiffusion pull owner/name@v1 model --sha256 HEX`

    Args:
        name: owner/name, or owner/name@REVISION: a branch, a tag or a commit. Left out, main.
        folder: Where it goes; left out, the name without the owner.
        sha256: What the weights file must hash to; other bytes are refused.
        lock: The pulled.json of an earlier pull: the same commit and the same bytes, or none.
        dry_run: Say what would be downloaded, and stop.
        json: Write what was pulled as JSON.
    """
    from baddiffusion.hub import PullPlan
    from baddiffusion.hub import pull as pull_model

    plan = PullPlan.make(name, folder, sha256, lock)
    if dry_run:
        say_json({**plan.to_dict(), "dry_run": True}) if json else say(_plan_text(plan))
        return
    if plan.present is None:
        note(f"{plan.repository}@{plan.commit}: {len(plan.sizes)} files, {_megabytes(plan.sizes.values())}.")
    record = pull_model(plan)
    if json:
        downloaded = plan.present is None
        say_json({"folder": str(plan.path), "downloaded": downloaded, **record.model_dump(mode="json")})
        return
    what = "verified, nothing was downloaded" if plan.present is not None else "pulled"
    say(f"{plan.path}  {record.name}@{record.commit}  {what}")
    say(table([(digest, file) for file, digest in record.files.items()], indent="  "))


@app.command(group=OTHER)
def push(
    source: Path,
    repository: str,
    /,
    *,
    branch: Annotated[str, Parameter(name=["--branch", "--revision"])] = "main",
    private: Switch = False,
    report: Switch = False,
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Upload a checkpoint with its card to the Hugging Face hub.

    What has no card is refused, as is a backdoored model whose README does not say so in its first line, and every file
    that belongs to no checkpoint. Needs a token: hf auth login, or HF_TOKEN.

    Example: `baddiffusion push runs/demo-1a2b3c4d me/demo --private --dry-run`

    Args:
        source: The folder of a checkpoint, or of a run.
        repository: owner/name; it is made if it is not there.
        branch: Of the repository.
        private: Only into a private repository.
        report: Take report.html of the run along.
        dry_run: Say what would be uploaded, and stop; needs neither network nor token.
        json: Write what was uploaded as JSON.
    """
    from baddiffusion.hub import pack, send

    parcel = pack(source, repository, branch, report)
    if dry_run:
        say_json({**parcel.to_dict(), "dry_run": True}) if json else say(_parcel_text(parcel))
        return
    note(_parcel_text(parcel))
    address = send(parcel, private)
    say_json({**parcel.to_dict(), "commit": address}) if json else say(address)


def _plan_text(plan: PullPlan) -> str:
    head = f"{plan.repository}@{plan.commit} to {plan.path}"
    if plan.present is not None:
        return f"{head}: is there; a pull would verify it and download nothing."
    return f"{head}: {_megabytes(plan.sizes.values())}\n{_listing(plan.sizes)}"


def _parcel_text(parcel: Parcel) -> str:
    added = f"\ntags added to README.md: {', '.join(parcel.tags_added)}" if parcel.tags_added else ""
    return (
        f"{parcel.headline}\n{len(parcel.sizes)} files to {parcel.repository}, branch {parcel.branch}: "
        f"{_megabytes(parcel.sizes.values())}\n{_listing(parcel.sizes)}{added}"
    )


def _listing(sizes: Any) -> str:
    rows = [("size unknown" if size is None else count(size), name) for name, size in sizes.items()]
    width = max((len(size) for size, _ in rows), default=0)
    return table([(size.rjust(width), name) for size, name in rows], indent="  ")


def _megabytes(sizes: Any) -> str:
    known = [size for size in sizes if size is not None]
    return f"{sum(known) / 1e6:.1f} MB" + ("" if len(known) == len(sizes) else " or more")
