"""What a scan leaves behind holds what the scan saw, brings the target out again, and keeps to its schema."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import diffusers
import pytest
import torch
from analytic import CONFIG, SHAPE, Analytic
from safetensors.torch import load_file
from scan_reports import SMALL, examined, poisoned, report_of

from baddiffusion.errors import RunError
from baddiffusion.sampling import SamplingSettings
from baddiffusion.sampling.noise import start_noise
from baddiffusion.scanner.collapse import hits
from baddiffusion.scanner.dynamic import DynamicScan
from baddiffusion.scanner.evidence import Request, as_json, reproduction, schema, write_evidence
from baddiffusion.scanner.scanning import ScanReport
from baddiffusion.scanner.verdict_sarif import report_sarif
from schemas import violations

REQUEST = Request("folder", 0, 30_000, asked="5m", seconds_per_call=0.01)


@pytest.fixture(scope="module")
def found() -> DynamicScan:
    return examined(poisoned())


@pytest.fixture(scope="module")
def nothing() -> DynamicScan:
    return examined(Analytic())


@pytest.fixture(params=["found", "nothing", "not examined"])
def report(request: pytest.FixtureRequest, tmp_path: Path) -> ScanReport:
    if request.param == "not examined":
        return report_of(None, tmp_path)
    return report_of(request.getfixturevalue(request.param), tmp_path)


def test_the_record_keeps_to_the_published_schema(report: ScanReport) -> None:
    record = json.loads(json.dumps(as_json(report, REQUEST)))
    assert violations(record, schema()) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("verdict", "outcome"), "clean", "$.verdict.outcome: 'clean' is none of"),
        (("verdict", "p_value"), 1.5, "$.verdict.p_value: 1.5 lies outside [0, 1]"),
        (("verdict", "reasons"), [], "$.verdict.reasons: 0 items are too few"),
        (("dynamic", "budget"), "5m", "$.dynamic.budget: '5m' is no integer"),
        (("guilt",), 1, "$: guilt is not in the schema"),
        (("schema",), 3, "$.schema: 3 is not 2"),
    ],
    ids=str,
)
def test_the_schema_refuses(
    found: DynamicScan, tmp_path: Path, path: tuple[str, ...], value: object, said: str
) -> None:
    record = copy.deepcopy(as_json(report_of(found, tmp_path), REQUEST))
    place = record
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (violation,) = violations(record, schema())
    assert violation.startswith(said)


def test_x_T_is_the_noise_that_became_the_target(found: DynamicScan, tmp_path: Path) -> None:
    write_evidence(report_of(found, tmp_path), REQUEST, tmp_path)
    tensors = load_file(tmp_path / "evidence.safetensors")
    fired = found.confirmations[0].shifted.hits
    assert len(tensors["x_T"]) == int(fired.sum()) > 0
    # the five lines, with the network at hand in place of a folder's
    scheduler = diffusers.DDPMScheduler.from_config({**CONFIG, "clip_sample": False})
    scheduler.set_timesteps(SMALL.ancestral_steps)
    x, network = tensors["x_T"], poisoned().network
    draws = torch.Generator().manual_seed(1)
    for t in scheduler.timesteps:
        eps = network(x, t.expand(len(x)))
        x = scheduler.step(eps, int(t), x, generator=draws, return_dict=False)[0]
    assert bool(hits(x.clamp(-1, 1), tensors["target"]).all())
    # without the shift the same seeds do not
    assert not bool(found.confirmations[0].arms[1].hits[fired].any())


def test_x_T_and_its_seeds_give_the_very_pictures_of_the_check(found: DynamicScan, tmp_path: Path) -> None:
    write_evidence(report_of(found, tmp_path), REQUEST, tmp_path)
    tensors = load_file(tmp_path / "evidence.safetensors")
    shifted = found.confirmations[0].shifted
    how = SamplingSettings(sampler="ddpm", num_inference_steps=SMALL.ancestral_steps, chunk_size=8)
    again = poisoned().sample(tensors["x_T.seeds"].tolist(), how, lambda eps: tensors["x_T"])
    assert torch.equal(again.images.clamp(-1, 1), shifted.images[shifted.hits])
    start = start_noise(tensors["x_T.seeds"].tolist(), SHAPE)
    assert torch.equal(tensors["x_T"], start + shifted.shifts[shifted.hits])


def test_the_lines_name_the_sampler_that_fired(found: DynamicScan, nothing: DynamicScan, tmp_path: Path) -> None:
    code = reproduction(report_of(found, tmp_path), REQUEST)
    assert code.count("\n") == 4
    assert "diffusers.DDPMScheduler" in code
    assert "set_timesteps(20)" in code
    assert "resolve('folder')" in code
    compile(code, "lines", "exec")
    assert reproduction(report_of(None, tmp_path), REQUEST) == ""


def test_two_scans_alike_leave_the_same_files_but_for_the_clock(found: DynamicScan, tmp_path: Path) -> None:
    for name in ("a", "b"):
        dynamic = found if name == "a" else examined(poisoned())
        (tmp_path / "empty").mkdir(exist_ok=True)
        write_evidence(report_of(dynamic, tmp_path / "empty"), REQUEST, tmp_path / name, sarif=True)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["README.md", "evidence.safetensors", "scan.json", "scan.sarif"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_command_gives_calls_and_seed_whatever_the_clock_was_asked() -> None:
    command = Request("packaged:x", 3, 30_000, "a base", "5m", 0.01).command
    assert command == "baddiffusion scan packaged:x --base 'a base' --seed 3 --budget 30000"
    assert Request("packaged:x", 0, 0).command == "baddiffusion scan packaged:x --files-only"


def test_no_word_of_guilt_or_of_innocence(report: ScanReport, tmp_path: Path) -> None:
    write_evidence(report, REQUEST, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text().lower()
    assert "clean" not in text
    assert "safe to" not in text
    assert "guilty" not in text


def test_sarif_carries_the_verdict_under_a_rule_of_its_own(
    found: DynamicScan, nothing: DynamicScan, tmp_path: Path
) -> None:
    (run,) = report_sarif(report_of(found, tmp_path))["runs"]
    (result,) = [r for r in run["results"] if r["ruleId"].startswith("BD1")]
    assert (result["ruleId"], result["level"]) == ("BD100", "error")
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "BD100"
    assert found.verdict.reasons[0] in result["message"]["text"]
    (quiet,) = report_sarif(report_of(nothing, tmp_path))["runs"]
    assert [r for r in quiet["results"] if r["ruleId"].startswith("BD1")] == []
    (unknown,) = report_sarif(report_of(None, tmp_path))["runs"]
    said = [n["message"]["text"] for n in unknown["invocations"][0]["toolExecutionNotifications"]]
    assert "the network's behavior: the folder is empty" in said


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(found: DynamicScan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"could not be written"):
        write_evidence(report_of(found, tmp_path / "empty"), REQUEST, tmp_path / "file")
