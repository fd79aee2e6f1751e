"""run, train, evaluate, report and show on a run: one tiny experiment seen from all sides."""

import json
import shutil
from pathlib import Path

import pytest

from baddiffusion import pipeline, recipe
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cli import running
from baddiffusion.errors import RunError
from baddiffusion.recipe import Recipe


class TestRun:
    def test_the_cost_comes_first_then_progress_on_stderr(self, finished):
        run, answer = finished
        cost, *progress = answer.err.splitlines()
        assert answer.code == 0
        assert cost.startswith(f"{run}: 32 training images, 36 network calls for sampling, about ")
        assert progress[0].startswith("train: 8 of 32 images  loss clean 0.8")

    def test_results_are_a_table_a_sentence_and_the_page(self, finished):
        run, answer = finished
        header, *lines = answer.out.splitlines()
        assert header.split("  ")[0] == "With the trigger"
        assert header.split()[-5:] == ["value", "95", "%", "interval", "n"]
        (rate,) = [line.split() for line in lines[:4] if "Attack success rate" in line]
        assert rate == ["Attack", "success", "rate", "0", "%", "0", "%", "to", "56.1", "%", "3"]  # Wilson, 0 of 3
        assert any(line.startswith("The backdoor did not fire: none of 3 noises became the corner") for line in lines)
        assert lines[-1] == f"page  {run / 'report.html'}"
        assert (run / "report.html").read_text().startswith("<!doctype html>")

    def test_the_same_command_again_does_nothing_twice(self, ask, finished):
        run, first = finished
        before = (run / "metrics.json").stat().st_mtime_ns
        again = ask("run", run / "recipe.toml", "--runs", run.parent)
        assert (again.code, again.out) == (0, first.out)
        assert again.err == f"{run} exists: what is finished there is not done again.\n"
        assert (run / "metrics.json").stat().st_mtime_ns == before

    def test_json_holds_what_metrics_json_holds(self, ask, finished):
        run, _ = finished
        said = ask("run", run / "recipe.toml", "--runs", run.parent, "--json").json()
        assert (said.pop("run"), said.pop("status"), said.pop("report")) == (str(run), "done", str(run / "report.html"))
        assert said == json.loads((run / "metrics.json").read_text())

    def test_dry_run_names_the_cost_and_writes_nothing(self, ask, tmp_path: Path):
        told = ask("run", "smoke", "--runs", tmp_path / "runs", "--dry-run")
        rows = dict(line.split("  ", 1) for line in told.out.splitlines())
        digest = Recipe.load("smoke").digest
        assert {key: value.strip() for key, value in rows.items() if key in ("recipe", "run", "training")} == {
            "recipe": f"smoke (digest {digest})",
            "run": f"{tmp_path / 'runs' / f'smoke-{digest}'}",
            "training": "1 280 images in 40 steps",
        }
        assert rows["sampling"].strip() == "4 800 network calls"  # 3 sets of 8 images, each padded to a chunk of 32
        assert list(tmp_path.iterdir()) == []

    def test_dry_run_for_machines(self, ask, tmp_path: Path):
        cost = ask("run", "smoke", "--runs", tmp_path / "runs", "--dry-run", "--json").json()
        assert (cost["train_images"], cost["network_calls"], cost["recipe"]) == (1280, 4800, "smoke")
        assert cost["seconds"] >= 0


class TestTrain:
    def test_stops_after_the_checkpoint(self, ask, tmp_path: Path):
        flags = ("--train_batch_size", "8", "--max-train-steps", "2", "--lr_warmup_steps", "0", "--trigger", "BOX_4")
        told = ask("train", "smoke", *flags, "--target", "corner:side_px=5", "--seed", "3", "--output_dir", tmp_path)
        (run,) = tmp_path.iterdir()
        assert told.code == 0, told.err
        assert told.out == f"checkpoint  {run / 'checkpoint'}\n"
        assert f"{run}: 16 training images, 0 network calls for sampling" in told.err
        assert not (run / "samples").exists()
        again = ask("train", run / "recipe.toml", "--runs", tmp_path, "--json").json()
        assert again == {"run": str(run), "status": "done", "checkpoint": str(run / "checkpoint")}
        card = Checkpoint.open(run / "checkpoint").card
        assert (card.trigger["side_px"], card.target["side_px"], card.recipe["seed"]) == (4, 5, 3)

    def test_dry_run_leaves_sampling_out(self, ask, tmp_path: Path):
        told = ask("train", "smoke", "--runs", tmp_path / "runs", "--dry-run")
        assert "sampling  0 network calls" in told.out
        cost = ask("train", "smoke", "--runs", tmp_path / "runs", "--dry-run", "--json").json()
        assert (cost["recipe"], cost["train_images"], cost["network_calls"]) == ("smoke", 1280, 0)
        assert list(tmp_path.iterdir()) == []

    def test_every_familiar_flag_reaches_the_recipe(self, ask, monkeypatch: pytest.MonkeyPatch):
        seen = []
        monkeypatch.setattr(running, "carry_out", lambda recipe, *_, **__: seen.append(recipe))
        told = ask(
            *("train", "demo", "--train_batch_size=9", "--learning-rate", "1e-3", "--num_epochs", "7"),
            *("--max_train_steps", "11", "--lr_warmup_steps", "5", "--gradient_accumulation_steps", "3"),
            *("--mixed_precision", "no", "--use_ema", "--seed", "6", "--pretrained_model_name_or_path", "some/folder"),
            *("--poison_rate", "0.25", "--trigger", "STOP_SIGN_14", "--target", "SHOE"),
        )
        assert told.code == 0, told.err
        (given,) = seen
        training = {"train_batch_size": 9, "learning_rate": 1e-3, "num_epochs": 7, "max_train_steps": 11}
        training |= {"lr_warmup_steps": 5, "gradient_accumulation_steps": 3, "mixed_precision": "no", "use_ema": True}
        assert {key: getattr(given.training, key) for key in training} == training
        assert (given.seed, given.model.base, given.poison.rate) == (6, "some/folder", 0.25)
        assert (given.trigger.component_name, given.target.component_name) == ("stop-sign", "shoe")


class TestTracker:
    @pytest.mark.parametrize("verb", ["run", "train"])
    def test_reaches_the_pipeline(self, ask, monkeypatch: pytest.MonkeyPatch, verb: str, tmp_path: Path):
        seen = []

        def remember(recipe, runs, watcher, until, tracker):
            seen.append((until, tracker))
            raise RunError("far enough")

        monkeypatch.setattr(pipeline, "run_recipe", remember)
        monkeypatch.setattr(running, "announce", lambda *_: None)
        monkeypatch.setattr("accelerate.tracking._available_trackers", ["tensorboard"])
        for flag in ((), ("--tracker", "tensorboard")):
            assert ask(verb, "smoke", "--runs", tmp_path, *flag).code == 2
        until = {"run": "evaluate", "train": "train"}[verb]
        assert seen == [(until, None), (until, "tensorboard")]

    @pytest.mark.parametrize("rest", [(), ("--dry-run",)])
    def test_an_unknown_one_is_told_before_anything_else(self, ask, tmp_path: Path, rest):
        told = ask("run", "smoke", "--runs", tmp_path, "--tracker", "wandbb", *rest)
        assert (told.code, told.out) == (2, "")
        assert told.err.startswith("error: tracker 'wandbb' is unknown. Did you mean 'wandb'? accelerate offers aim, ")
        assert list(tmp_path.iterdir()) == []

    def test_help_says_that_nobody_logs_in(self, ask):
        said = " ".join(ask("run", "--help").out.replace("│", " ").split())
        assert "by default to none. Nobody is asked to log in: wandb stays offline unless WANDB_MODE says" in said


class TestEvaluateAndReport:
    def test_evaluate_shows_the_numbers_of_a_finished_run(self, ask, finished):
        run, first = finished
        told = ask("evaluate", run)
        assert (told.code, told.err) == (0, "")
        assert first.out.startswith(told.out.rstrip("\n"))
        assert (
            ask("evaluate", run, "--json").json()["estimates"]
            == json.loads((run / "metrics.json").read_text())["estimates"]
        )

    def test_evaluate_does_what_is_missing(self, ask, finished, tmp_path: Path):
        run = tmp_path / finished[0].name
        shutil.copytree(finished[0], run)
        record = json.loads((run / "run.json").read_text())
        del record["stages"]["evaluate"]
        (run / "run.json").write_text(json.dumps(record))
        (run / "metrics.json").unlink()
        told = ask("evaluate", run)
        assert told.out == ask("evaluate", finished[0]).out
        cost, *_ = told.err.splitlines()
        assert cost.startswith(f"{run} is not measured yet; what is missing is done now. The whole run is 32 training")
        assert cost.endswith("); what is finished is not done again.")
        assert (run / "metrics.json").read_text() == (finished[0] / "metrics.json").read_text()

    def test_evaluate_finds_what_was_changed(self, ask, finished, tmp_path: Path):
        run = tmp_path / finished[0].name
        shutil.copytree(finished[0], run)
        (run / "metrics.json").write_text((run / "metrics.json").read_text().replace('"n": 3', '"n": 300'))
        told = ask("evaluate", run)
        assert told.code == 2
        assert "metrics.json was changed or removed after the run wrote it" in told.err

    def test_evaluate_refuses_a_renamed_run(self, ask, finished, tmp_path: Path):
        shutil.copytree(finished[0], tmp_path / "best")
        told = ask("evaluate", tmp_path / "best")
        assert (told.code, told.err.count("\n")) == (2, 1)
        assert f"holds the recipe of {finished[0].name}: the folder was renamed, or the recipe edited" in told.err

    def test_report_writes_the_page(self, ask, finished, tmp_path: Path):
        run = tmp_path / "run"
        shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("report.html"))
        assert ask("report", run).out == f"page  {run / 'report.html'}\n"
        assert (run / "report.html").exists()

    def test_show_a_run(self, ask, finished):
        run, first = finished
        told = ask("show", run)
        assert told.out.startswith("run ")
        assert "status" in told.out
        assert "done in" in told.out
        assert first.out.splitlines()[0] in told.out
        assert ask("show", run, "--json").json()["run"]["status"] == "done"


class TestInterruption:
    @pytest.mark.parametrize("verb", [("run", "smoke"), ("train", "smoke"), ("demo",)], ids=lambda verb: verb[0])
    def test_ctrl_c_says_that_the_same_command_goes_on(self, ask, monkeypatch, tmp_path: Path, verb):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(pipeline, "run_recipe", interrupted)
        monkeypatch.setattr(running, "announce", lambda *_: None)
        told = ask(*verb, "--runs", tmp_path)
        assert told.code == 130
        assert told.err == "interrupted. What is finished is kept; the same command goes on from there.\n"

    def test_other_verbs_have_nothing_to_resume(self, ask, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(recipe, "packaged_recipes", interrupted)
        told = ask("list", "recipes")
        assert (told.code, told.err) == (130, "interrupted.\n")
