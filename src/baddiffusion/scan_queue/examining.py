"""One model, looked at in a process of its own: its files always, its behavior unless its weights are known."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from baddiffusion.errors import CheckpointError, RunError
from baddiffusion.report.scan.page import write_scan_page
from baddiffusion.rundir import write_atomic
from baddiffusion.scan_queue.asking import Asked
from baddiffusion.scan_queue.store import ORIGIN, RECORD, Store, content_key
from baddiffusion.scanner import ScanReport, Verdict, scan
from baddiffusion.scanner.evidence import EVIDENCE, README, Request, as_json, write_evidence

__all__ = ["examine_model", "locate_model"]

Answer = dict[str, Any]


def locate_model(name: str) -> Answer:
    """Find a model of the hub, downloading it if need be.

    Args:
        name: ``owner/name`` or ``owner/name@revision``.

    Returns:
        ``folder`` and ``revision``, the commit; or ``refused``, why there is none.
    """
    from baddiffusion.hub import resolve

    try:
        folder = resolve(name)
    except CheckpointError as error:
        return {"refused": str(error)}
    return {"folder": str(folder), "revision": folder.name if folder.parent.name == "snapshots" else ""}


def examine_model(folder: str, subject: str, out: str, contents: str, asked: dict[str, Any]) -> Answer:
    """Scan one model and leave what `baddiffusion scan` leaves, whole or not at all.

    Args:
        folder: of the model.
        subject: what it is called.
        out: of the queue.
        contents: digest of all that lies in the folder.
        asked: as `Asked` has it.

    Returns:
        What its record says of it; or ``elsewhere`` if another process scans these weights now, ``changed`` if they
        became others, ``refused`` with the reason if the folder cannot be read, ``trouble`` if nothing can be written.
    """
    try:
        return _examined(_Making(Store(Path(out)), Path(folder), subject, contents, Asked.of(asked)))
    except RunError as error:
        return {"trouble": str(error)}
    except CheckpointError as error:
        return {"refused": str(error).replace(folder, subject)}


def _examined(made: _Making) -> Answer:
    report = made.scanned(0)
    if report.files.checkpoint is None or made.asked.budget == 0:
        name = content_key("files", made.contents, made.asked.key)
        return made.adopt(report, name) if made.store.holds(name) else made.leave(report, name)
    weights = report.files.checkpoint.digest
    name = content_key("weights", weights, made.asked.key)
    if made.store.holds(name):
        return made.adopt(report, name)
    with made.store.claim(name) as is_mine:
        if not is_mine:
            return {"elsewhere": True}
        if made.store.holds(name):
            return made.adopt(report, name)
        event = {"scan": name, "model": made.subject, "process": os.getpid()}
        made.store.note({**event, "event": "begins"})
        report = made.scanned(made.asked.budget)
        if report.digest != weights:
            return {"changed": True}
        told = made.leave(report, name)
        made.store.note({**event, "event": "ended", "seconds": told["seconds"]})
    return told


class _Making:
    """What is made of one model."""

    def __init__(self, store: Store, folder: Path, subject: str, contents: str, asked: Asked) -> None:
        self.store = store
        self._folder, self.subject, self.contents, self.asked = folder, subject, contents, asked
        self._base = asked.base or None
        self._request = Request(subject, asked.seed, asked.budget, asked.base_name)

    def scanned(self, budget: int) -> ScanReport:
        """Scan it."""
        return scan(self._folder, base=self._base, seed=self.asked.seed, budget=budget)

    def leave(self, report: ScanReport, name: str) -> Answer:
        """Write a scan where it can be found, in one move."""
        work = self._workplace(name)
        write_evidence(report, self._request, work)
        return self._moved(work, name, as_json(report, self._request))

    def adopt(self, report: ScanReport, name: str) -> Answer:
        """Take over what is known of the weights; the files are those of this very folder."""
        known = self.store.scan(name)
        record = json.loads((known / RECORD).read_bytes())
        if json.loads((known / ORIGIN).read_bytes())["contents"] == self.contents:
            return self._told(record, name)
        own = f"{name}-{self.contents[:8]}"
        if self.store.holds(own):
            return self._told(json.loads((self.store.scan(own) / RECORD).read_bytes()), own)
        report = replace(
            report, digest=record["digest"], seconds=record["seconds"], verdict=_verdict(record["verdict"])
        )
        told = as_json(report, self._request)
        was, now = record["request"]["subject"], self.subject
        told["dynamic"], told["verdict"] = record["dynamic"], record["verdict"]
        told["request"]["reproduction"] = record["request"]["reproduction"].replace(repr(was), repr(now))
        work = self._workplace(own)
        if (known / EVIDENCE).exists():
            _link(known / EVIDENCE, work / EVIDENCE)
        readme = (known / README).read_text(encoding="utf-8").replace(f"Scanned: {was}.", f"Scanned: {now}.")
        readme = readme.replace(record["request"]["command"], self._request.command).replace(repr(was), repr(now))
        write_atomic(work / README, readme)
        write_atomic(work / RECORD, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        return self._moved(work, own, told)

    def _workplace(self, name: str) -> Path:
        work = self.store.work(name)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        return work

    def _moved(self, work: Path, name: str, record: dict[str, Any]) -> Answer:
        write_scan_page(work)
        origin = {"contents": self.contents, "weights": record["digest"], "asked": self.asked.told()}
        write_atomic(work / ORIGIN, json.dumps(origin, indent=1) + "\n")
        home = self.store.scan(name)
        home.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(home, ignore_errors=True)  # what somebody has taken parts of
        try:
            os.rename(work, home)
        except OSError as error:
            raise RunError(
                f"{home} cannot be written ({error.strerror}); make room or choose another folder."
            ) from None
        return self._told(record, name)

    def _told(self, record: dict[str, Any], name: str) -> Answer:
        verdict, dynamic = record["verdict"], record["dynamic"]
        alarms = [f for f in record["files"]["findings"] if f["kind"] == "danger" and f["severity"] != "note"]
        return {
            "outcome": verdict["outcome"],
            "reasons": verdict["reasons"],
            "p_value": verdict["p_value"],
            "alarms": [f"{f['rule']} {f['message']}" for f in alarms],
            "exit_code": record["exit_code"],
            "weights": record["digest"],
            "network_calls": dynamic["spent"]["network_calls"] if dynamic else 0,
            "seconds": record["seconds"],
            "scan": name,
            "subject": record["request"]["subject"],
        }


def _verdict(stored: dict[str, Any]) -> Verdict:
    return Verdict(stored["outcome"], tuple(stored["reasons"]), stored["p_value"], tuple(stored["advice"]))


def _link(source: Path, target: Path) -> None:
    """One file under two names, where the file system can; else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
