"""Numbers against real pictures that are kept in a finished run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from baddiffusion.comparisons import comparisons_of, keep_comparison
from baddiffusion.errors import RunError
from baddiffusion.metrics import Estimate
from baddiffusion.rundir import RunDir, write_atomic


def fid(value: float = 9.0, n: int = 2048, sampler: str = "ddpm", **changed: str) -> Estimate:
    protocol = {"kind": "clean", "sampler": sampler, "reference": "faces", "weights": "6726825d", **changed}
    return Estimate(
        name="fid", value=value, low=None, high=None, n=n, better="lower", unit="squared distance", protocol=protocol
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.start(tmp_path, "mine", "1a2b3c4d", "name = 'mine'\n")
    for kind in ("clean", "triggered"):
        write_atomic(run.path / "samples/ddpm-4-off" / kind / "index.json", kind)
        run.finish(f"sample:samples/ddpm-4-off/{kind}", {}, [run.path / "samples/ddpm-4-off" / kind], 1.0)
    return run


def test_what_is_kept_is_what_is_read(run: RunDir) -> None:
    file = keep_comparison(run.path, [fid(9.0), fid(8.0, sampler="ddim")], 12.5)
    again = RunDir.read(run.path)
    entry = again.record["stages"][f"compare:comparisons/{file.name}"]
    # Which pictures were looked at stands there: the clean ones alone.
    assert list(entry["inputs"]) == ["sample:samples/ddpm-4-off/clean"]
    assert (entry["elapsed_s"], again.record["status"]) == (12.5, "done")
    (kept,) = comparisons_of(again)
    assert [Estimate.from_dict(one) for one in kept] == [fid(9.0), fid(8.0, sampler="ddim")]
    assert comparisons_of(run) == []  # which was opened before


def test_what_must_not_stand_in_one_table_stands_in_two_files(run: RunDir) -> None:
    other = [fid(reference="cats"), fid(weights="0"), fid(n=10_000), replace(fid(), name="kid")]
    files = [keep_comparison(run.path, [one], 1.0) for one in (fid(), *other)]
    assert len(set(files)) == 5
    assert len(comparisons_of(RunDir.read(run.path))) == 5
    # Another sampler is another row of the same table, but not another way of measuring.
    assert keep_comparison(run.path, [fid(sampler="ddim")], 1.0) == files[0]


def test_the_same_once_more_leaves_the_file_as_it_is(run: RunDir) -> None:
    file = keep_comparison(run.path, [fid(9.0)], 1.0)
    before = file.read_bytes(), RunDir.read(run.path).record["stages"]
    assert keep_comparison(run.path, [fid(9.5)], 2.0) == file
    assert (file.read_bytes(), RunDir.read(run.path).record["stages"]) == before


class TestRefusals:
    def test_a_file_that_was_edited(self, run: RunDir) -> None:
        file = keep_comparison(run.path, [fid()], 1.0)
        file.write_text(file.read_text().replace("9.0", "3.0"))
        with pytest.raises(RunError, match=r"json was changed or removed after the run wrote it; start a new run."):
            comparisons_of(RunDir.read(run.path))
        with pytest.raises(RunError, match=r"json was changed or removed after the run wrote it; start a new run."):
            keep_comparison(run.path, [fid()], 1.0)

    def test_other_samples(self, run: RunDir) -> None:
        keep_comparison(run.path, [fid()], 1.0)
        late = RunDir.read(run.path)
        write_atomic(late.path / "samples/ddpm-4-off/base/index.json", "base")
        late.finish("sample:samples/ddpm-4-off/base", {}, [late.path / "samples/ddpm-4-off/base"], 1.0)
        with pytest.raises(RunError, match=r"json of .* was made from other inputs; nothing is overwritten."):
            keep_comparison(run.path, [fid()], 1.0)

    def test_another_schema(self, run: RunDir) -> None:
        file = run.path / "comparisons" / "0.json"
        write_atomic(file, json.dumps({"schema": 2}))
        run.finish("compare:comparisons/0.json", {}, [file], 1.0)
        with pytest.raises(RunError, match=r"0.json has schema 2; this version reads schema 1. Start the run again."):
            comparisons_of(run)

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="is not a run directory"):
            keep_comparison(tmp_path, [fid()], 1.0)
