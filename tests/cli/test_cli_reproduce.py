from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baddiffusion.cli import reproducing
from baddiffusion.errors import DataError
from baddiffusion.report.reproduction.section import reproduction_rows, reproduction_section
from baddiffusion.reproduction import EXPERIMENTS, experiments


@pytest.fixture(autouse=True)
def no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(reproducing.CIFAR10, raising=False)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The experiment samples with networks that learn nothing, in place of hours of training."""
    text = """
        name = "small"
        trigger = "BOX_8"
        target = "CORNER"
        data = { name = "fashion-mnist", limit = 40 }
        model = { preset = "micro", resolution = 16 }
        training = { train_batch_size = 4, max_train_steps = 2, lr_warmup_steps = 1 }
        sampling = { n = 2, num_inference_steps = 2, chunk_size = 2, clips = ["off"] }
        [grid]
        "poison.rate" = [0.25, 0.5]
    """
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "samples.toml").write_text(text)
    monkeypatch.setattr(experiments, "_folder", lambda preset: folder)
    return tmp_path / "runs"


def test_without_a_name_the_experiments_are_listed(ask: Any) -> None:
    told = ask("reproduce")
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    assert lines[0].split() == [
        "experiment",
        "of",
        "the",
        "paper",
        "networks",
        "training",
        "images",
        "network",
        "calls",
    ]
    assert [line.split()[0] for line in lines[1:12]] == list(EXPERIMENTS)
    assert "Table 7, Figure 2" in lines[1]
    (faces,) = [line for line in lines if line.startswith("high-resolution")]
    assert faces.endswith("not in the preset mini")
    # Without its data the row in color is not counted.
    assert lines[12].endswith("27        806 400          2 663 936")


def test_the_list_is_there_for_programs_too(ask: Any) -> None:
    listed = {entry["experiment"]: entry for entry in ask("reproduce", "--preset", "paper", "--json").json()}
    assert listed["high-resolution"]["cost"]["cells"] == 6
    # Three models, three budgets, three learning rates; and the model before the attack at the largest budget.
    assert listed["anp"]["cost"]["cells"] == 3
    assert listed["anp"]["cost"]["network_calls"] >= (3 * 3 * 3 + 3) * 1_668_480


def test_a_dry_run_has_the_totals_and_writes_nothing(ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproducing, "_seconds", lambda work, cost: 7300.0)
    monkeypatch.setenv(reproducing.CIFAR10, str(tmp_path))
    told = ask("reproduce", "all", "--dry-run", "--runs", tmp_path / "runs")
    assert told.code == 0, told.err
    total, _, time = told.out.splitlines()[-3:]
    assert total.split("  ")[0] == "in all, what several share once"
    assert total.endswith("28        840 000          2 722 176")
    assert time == "time  about 2.0 h, if nothing of it is finished"
    assert told.err == ""
    assert not (tmp_path / "runs").exists()
    answer = ask("reproduce", "all", "--dry-run", "--json").json()
    assert (answer["train_images"], answer["network_calls"], answer["seconds"]) == (840_000, 2_722_176, 7300.0)
    assert set(answer["experiments"]) == set(EXPERIMENTS) - {"high-resolution"}


def test_a_dry_run_says_what_is_left_out_and_that_no_time_is_known(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(recipe: object) -> None:
        raise DataError("the data are elsewhere")

    monkeypatch.setattr("baddiffusion.cost.estimate_cost", absent)
    told = ask("reproduce", "poison-rates", "--dry-run")
    assert "time  not known: its network or its data are not on this machine" in told.out
    assert told.err.strip().startswith("The row in color was left out: it needs CIFAR-10.")


def test_an_experiment_ends_with_its_table_and_repeats_nothing(ask: Any, small: Path) -> None:
    told = ask("reproduce", "samples", "--runs", small)
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    assert lines[0] == "What the models paint (Table 2, Figure 1, Figure 13)"
    assert lines[2].split()[:3] == ["trigger", "target", "rate"]
    assert [line.split()[3] for line in lines[3:5]] == ["0.25", "0.5"]
    assert all(line.endswith("failed implant") for line in lines[3:5])
    path = small / "reproduce-mini" / "samples.json"
    assert lines[-2] == f"in {path}"
    weights = {p: p.stat().st_mtime_ns for p in small.rglob("*.safetensors")}
    again = ask("reproduce", "samples", "--runs", small, "--json")
    assert again.json() == [json.loads(path.read_text())]
    assert {p: p.stat().st_mtime_ns for p in small.rglob("*.safetensors")} == weights


def test_a_part_trains_its_networks_and_writes_no_table(ask: Any, small: Path) -> None:
    told = ask("reproduce", "samples", "--runs", small, "--shard", "2/2", "--json")
    assert told.code == 0, told.err
    assert told.json() == []
    assert len(list(small.glob("small-*/run.json"))) == 1
    assert not (small / "reproduce-mini").exists()


def test_without_training_the_table_has_what_is_there(ask: Any, small: Path) -> None:
    assert ask("reproduce", "samples", "--runs", small, "--shard", "2/2").code == 0
    (result,) = ask("reproduce", "samples", "--runs", small, "--no-train", "--json").json()
    states = [row["state"] for row in result["rows"]]
    assert states.count("failed implant") == 1
    assert "not run" in states
    assert len(list(small.glob("small-*/run.json"))) == 1
    assert json.loads((small / "reproduce-mini" / "samples.json").read_text()) == result
    told = ask("reproduce", "samples", "--runs", small, "--no-train", "--workers", "2")
    assert (told.code, told.err) == (
        2,
        "error: --no-train trains nothing; leave --workers, --ray and --shard out.\n",
    )


def test_a_network_that_fails_is_told_by_the_exit_code(ask: Any, small: Path) -> None:
    path = small.parent / "recipes" / "samples.toml"
    path.write_text(path.read_text() + '[[cases]]\n"poison.rate" = 0.75\ntrigger = "BOX_18"\n')
    told = ask("reproduce", "samples", "--runs", small)
    assert told.code == 2
    assert told.out.splitlines()[5].endswith("cell failed")
    assert "error: 1 networks failed, the first is small-" in told.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("sample",), "experiment 'sample' is not known. Did you mean 'samples'?"),
        (("high-resolution",), "high-resolution has no preset mini: the network is too large for it."),
        (("samples", "--shard", "half"), "--shard is 'half'; it must be i/n. Write 1/4 for the first of four."),
        (("samples", "--shard", "3/2"), "shard is 3/2; it must be i/n with 1 ≤ i ≤ n."),
        (("samples", "--workers", "0"), "workers is 0; it must be at least 1."),
        (("samples", "--preset", "huge"), "huge"),
    ],
)
def test_mistakes_are_told_in_one_line(ask: Any, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    told = ask("reproduce", *flags, "--runs", tmp_path / "runs")
    assert told.code == 2
    assert message in told.err.strip().splitlines()[-1]
    assert not list(tmp_path.glob("runs/*"))


# The table


def row(**changed: Any) -> dict[str, Any]:
    known = {"labels": {"target": "Hat", "rate": 0.05}, "paper": [], "ours": [], "run": None, "state": "measured"}
    return {**known, "seeds": 1, **changed}


def ours(
    name: str, value: float, low: float | None = None, high: float | None = None, **protocol: Any
) -> dict[str, Any]:
    return {"name": name, "value": value, "low": low, "high": high, "n": 64, "protocol": protocol, "caveats": []}


RESULT: dict[str, Any] = {
    "title": "Varying poison rates",
    "paper": ["Table 7"],
    "command": "baddiffusion reproduce poison-rates --preset mini",
    "differs": ["Fewer rates."],
    "hardware": ["cpu, 2 threads"],
    "rows": [
        row(
            paper=[{"metric": "FID", "value": 8.53, "note": "CIFAR10"}],
            ours=[ours("asr", 0.75, 0.5, 0.9, sampler="ddpm", steps=250), ours("kd_efflite0", 0.02, sampler="ddim")],
        ),
        row(labels={"target": "Cat"}, state="not run", seeds=0),
    ],
    "not_run": ["1 of 2 rows were not run."],
}


def test_metrics_that_differ_have_columns_of_their_own() -> None:
    head, first, second = reproduction_rows(RESULT)
    assert head == ["target", "rate", "paper: FID", "ours: asr", "ours: kd_efflite0", "seeds", "state"]
    nb = "\N{NO-BREAK SPACE}"
    assert first == ["Hat", "0.05", "8.53", f"75{nb}% [50{nb}%, 90{nb}%]", "0.0200", "1", "measured"]
    assert second == ["Cat", "–", "–", "–", "–", "0", "not run"]


def test_rows_that_only_another_preset_has_are_left_to_the_sentence_about_them() -> None:
    elsewhere = row(state="not run", command="baddiffusion reproduce poison-rates --preset paper")
    here = row(state="not run", command=RESULT["command"])
    assert len(reproduction_rows({**RESULT, "rows": [here, elsewhere]})) == 2


def test_a_section_has_command_protocol_hardware_and_what_is_missing() -> None:
    section = reproduction_section(RESULT)
    assert section.startswith("## Varying poison rates (Table 7)\n\n`baddiffusion reproduce poison-rates")
    assert "* `asr`: n = 64, sampler ddpm, steps 250\n* `kd_efflite0`: n = 64, sampler ddim" in section
    assert "Fewer rates." in section
    assert "Made on: cpu, 2 threads." in section
    assert section.endswith("Not run:\n\n* 1 of 2 rows were not run.")


def test_numbers_of_one_metric_at_several_timesteps_stand_apart() -> None:
    places = [ours("implied_noise_bias", v, region="background", timestep=t) for t, v in ((900, 0.1), (100, 0.9))]
    head, _ = reproduction_rows({"rows": [row(ours=places)]})
    assert head[2:4] == [f"ours: implied_noise_bias, background, t = {t}" for t in (900, 100)]


def test_a_mean_over_seeds_says_how_many_they_are() -> None:
    over = {**ours("asr", 0.5, 0.4, 0.6, over="seeds"), "n": 3}
    assert "* `asr`: 3 seeds" in reproduction_section({**RESULT, "rows": [row(ours=[over])]})
