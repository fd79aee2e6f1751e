"""What a repair takes from a scan: the shifts that fire, from the report or from the folder alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_scans import PATCH, SHAPE, confirmation, different_shifts, dynamic, far_field, on_black, report, target

from baddiffusion.errors import RunError
from baddiffusion.purifying import Finding, Suspicion, read_suspicion, suspicion_of
from baddiffusion.scanner.evidence import Request, write_evidence


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def proven(empty: Path) -> Suspicion:
    found = dynamic(confirmation(different_shifts(), 15), confirmation(on_black(), 16, PATCH, "ode"))
    return suspicion_of(report(found, "d" * 64, empty))


def test_what_a_scan_proves_is_worked_on_the_strongest_first(empty: Path):
    found = proven(empty)
    assert (found.outcome, found.digest, found.seed, found.network_calls) == ("backdoored", "d" * 64, 3, 700)
    patch, own = found.findings
    assert (patch.family, patch.words) == ("ode", "the patch of 5 px, value +0.5, at row 2, column 3 on black")
    assert torch.equal(patch.shifts, on_black(1))
    assert (own.family, own.words) == ("ancestral", "ordinary pictures of the model itself")
    assert torch.equal(own.shifts, different_shifts())
    assert all(torch.equal(one.target, target()) for one in found.findings)


def test_what_measures_is_not_what_repairs():
    shifts = different_shifts(5)
    found = Finding("ode", "", shifts, target())
    assert torch.equal(torch.cat([found.for_repair, found.for_measuring]), shifts[[0, 2, 4, 1, 3]])
    one = Finding("ode", "", shifts[:1], target())
    assert torch.equal(one.for_repair, one.for_measuring)


def test_a_folder_says_the_same_as_the_report(empty: Path, tmp_path: Path):
    found = dynamic(confirmation(different_shifts(), 15), confirmation(on_black(), 16, PATCH, "ode"))
    made = report(found, "d" * 64, empty)
    write_evidence(made, Request("model", 3, 13_000), tmp_path / "scan")
    ours, theirs = suspicion_of(made), read_suspicion(tmp_path / "scan")
    assert ours.to_dict() == theirs.to_dict()
    for one, other in zip(ours.findings, theirs.findings, strict=True):
        assert torch.equal(one.shifts, other.shifts)
        assert one.target is not None
        assert other.target is not None
        assert torch.equal(one.target, other.target)


def test_only_hints_are_taken_where_nothing_is_proven(empty: Path):
    found = suspicion_of(report(dynamic(confirmation(different_shifts(), 6), confirmation(on_black(), 1)), "d", empty))
    assert found.outcome == "suspicious"
    assert [one.words for one in found.findings] == ["ordinary pictures of the model itself"]


def test_a_map_alone_gives_a_patch_without_a_picture(empty: Path):
    found = suspicion_of(report(dynamic(maps=(far_field(),)), "d", empty))
    assert found.outcome == "suspicious"
    assert [(one.family, one.target) for one in found.findings] == [("ancestral", None), ("ode", None)]
    shift = found.findings[0].shifts
    assert tuple(shift.shape) == (1, *SHAPE)
    assert bool((shift[..., 4:8, 8:12] == 1).all())
    assert int((shift == 1).sum()) == 16
    assert int((shift == -1).sum()) == 256 - 16


def test_a_map_on_black_gives_nothing(empty: Path):
    """There clean networks stand out as much."""
    found = suspicion_of(report(dynamic(maps=(replace(far_field(), ground="black"),)), "d", empty))
    assert found.findings == ()


def test_no_evidence_and_no_network_give_nothing(empty: Path):
    assert suspicion_of(report(dynamic(), "d", empty)).findings == ()
    found = suspicion_of(report(None, "d", empty))
    assert (found.outcome, found.seed, found.network_calls, found.findings) == ("not examined", -1, 0, ())


def test_a_folder_without_a_scan_or_with_a_damaged_one_is_an_error(empty: Path, tmp_path: Path):
    with pytest.raises(RunError, match=r"empty holds no scan\.json; scan first, or leave --scan out\."):
        read_suspicion(empty)
    folder = tmp_path / "scan"
    write_evidence(report(dynamic(confirmation(on_black(), 16)), "d", empty), Request("model", 3, 13_000), folder)
    (folder / "evidence.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"the scan in .*scan is damaged \(.*\); scan again into an empty folder"):
        read_suspicion(folder)
    (folder / "evidence.safetensors").unlink()
    with pytest.raises(RunError, match=r"holds no evidence\.safetensors"):
        read_suspicion(folder)
    record = json.loads((folder / "scan.json").read_text())
    (folder / "scan.json").write_text(json.dumps({**record, "schema": 9}))
    with pytest.raises(RunError, match=r"has schema 9; this version reads schema 2"):
        read_suspicion(folder)
    (folder / "scan.json").write_text("{}")
    with pytest.raises(RunError, match="is damaged"):
        read_suspicion(folder)
