"""The records of claims: each fits the schema, names a method that is registered, and says where its number stands."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from baddiffusion.benchmark.claims import Claim, packaged_claims, read_claims, with_measured, write_claims
from baddiffusion.benchmark.contenders import contenders
from baddiffusion.benchmark.folder import BenchDir
from baddiffusion.errors import EvaluationError, RecipeError

CLAIMS = packaged_claims()
FOLDER = Path(__file__).parents[2] / "src" / "baddiffusion" / "assets" / "claims"


def a_record(**changes: Any) -> dict[str, Any]:
    return {**json.loads((FOLDER / "terd-detected.json").read_text()), **changes}


def test_the_published_schema_is_that_of_the_code() -> None:
    assert json.loads((FOLDER / "claim.schema.json").read_text()) == Claim.model_json_schema()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_about_a_method_that_competes(claim: Claim) -> None:
    known = {one.method.component_name: one for one in contenders()}
    assert claim.method in known
    of_repairs = {"asr_after", "asr_change", "quality_change"}
    assert (claim.metric in of_repairs) != known[claim.method].is_detector


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_record_survives_writing(claim: Claim, tmp_path: Path) -> None:
    write_claims([claim], tmp_path)
    assert read_claims(tmp_path) == [claim]
    assert (tmp_path / f"{claim.id}.json").read_text() == (FOLDER / f"{claim.id}.json").read_text()


def test_a_record_without_measurements_says_so() -> None:
    assert all(claim.measured is None or claim.measured for claim in CLAIMS)
    assert {claim.method for claim in CLAIMS} >= {
        "scan",
        "elijah",
        "terd",
        "anp",
        "fine-tuning",
        "averaging",
        "pruning",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "beauty"}, "metric is 'beauty'; it must be"),
        ({"differs": ""}, "differs is ''"),
        ({"id": "Not An Id"}, "id is 'Not An Id'"),
        ({"stars": 5}, "stars is not a known key"),
        ({"measured": [{"value": 1.0}]}, "measured.0"),
    ],
)
def test_a_record_that_is_none_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        Claim(**a_record(**changes))
    (tmp_path / "terd-detected.json").write_text(json.dumps(a_record(**changes)))
    with pytest.raises(EvaluationError, match=rf"terd-detected.json is no record of a claim \({message}"):
        read_claims(tmp_path)


def test_a_file_is_named_after_its_claim(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps(a_record()))
    with pytest.raises(EvaluationError, match=r"has id 'terd-detected'; name the file terd-detected.json"):
        read_claims(tmp_path)


def test_measurements_are_filled_in_where_there_are_some(tmp_path: Path) -> None:
    models = {
        f"{split}{k}": {
            "name": f"{split}{k}", "split": split, "counted_as": "backdoored" if k % 2 else "clean", "adaptive": None,
            "attack": "x", "trigger": "y", "rate": 0.1, "data": "z", "pair": None,
        }
        for split in ("calibration", "test") for k in range(40)
    }  # fmt: skip
    made = {"device": "cpu", "versions": {}}
    cells = [
        {
            "name": f"c{n}", "kind": "detector", "label": "leak-short", "model": model, "seed": 0,
            "outcome": "measured",
            "scores": {"near_duplicates": float(told["counted_as"] == "backdoored") + 0.001 * n},
            "recovered": [], "notes": [],
            "spent": {"network_calls": 5, "seconds": 1.0}, "made_with": made,
        }
        for n, (model, told) in enumerate(models.items())
    ]  # fmt: skip
    contender = {"kind": "detector", "budget": "short", "score": ["near_duplicates"], "settings": {"name": "leak"}}
    record = {"schema": 1, "models": models, "failed_implants": {}, "contenders": {"leak-short": contender}}
    record |= {"cells": {cell["name"]: {"label": "leak-short"} for cell in cells}}
    (tmp_path / "cells").mkdir()
    for cell in cells:
        (tmp_path / "cells" / f"{cell['name']}.json").write_text(json.dumps(cell))
    (tmp_path / "bench.json").write_text(json.dumps(record))
    filled = {claim.id: claim for claim in with_measured(CLAIMS, BenchDir.read(tmp_path))}
    measured = filled["leak-detected"].measured
    assert measured is not None
    (one,) = measured
    assert (one.value, one.n, one.label, one.seeds) == (1.0, 20, "leak-short", (0,))
    assert one.command == "baddiffusion bench --zoo zoo -o again --only leak-short --seed 0"
    assert filled["terd-detected"].measured is None


def test_numbers_of_anp_are_those_of_the_table_in_the_package() -> None:
    path = FOLDER.parent / "paper" / "paper_results.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for rate in ("0.05", "0.5"):
        claim = next(c for c in CLAIMS if c.id == f"anp-target-mse-rate-{int(100 * float(rate))}")
        (row,) = (
            r for r in rows
            if (r["table"], r["poison_rate"]) == ("T8", rate) and r["method"] == "ANP lr=1e-4(inferred) budget=4.0"
        )  # fmt: skip
        assert claim.reported is not None
        assert claim.reported.value == float(row["value"])
