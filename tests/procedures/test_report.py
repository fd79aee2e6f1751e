from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.data.source import ResidentImages
from baddiffusion.errors import RunError
from baddiffusion.evaluation import SampleSet, evaluate
from baddiffusion.images import from_uint8, png_bytes, to_uint8
from baddiffusion.metrics.reference import MEASURES as REFERENCE_MEASURES
from baddiffusion.models import build, parameter_count, unet_config
from baddiffusion.recipe import Recipe
from baddiffusion.report import write_report
from baddiffusion.report.kit.figures import Mark, error_scale, loss_curves, success_curves
from baddiffusion.report.kit.pictures import BAND, Row, bands, sheet_uri, thumbnails
from baddiffusion.report.kit.tables import find, groups, measure
from baddiffusion.report.kit.wording import Count, clipping_effect, headline, network_words, target_words, trigger_words
from baddiffusion.report.run.page import _Shown
from baddiffusion.report.run.reading import RunFiles
from baddiffusion.report.run.story import Story
from baddiffusion.rng import generator
from baddiffusion.rundir import EventLog, RunDir, write_atomic
from baddiffusion.sampling import SamplingSettings
from baddiffusion.sampling.clipping import ClipKind
from baddiffusion.sampling.store import SampleStore

SHAPE = (1, 32, 32)
SCHEDULER = {"_class_name": "DDPMScheduler", "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


class FakeRun:
    """A run directory as the pipeline leaves it, without the hour that training would take."""

    def __init__(
        self, root: Path, overrides: Sequence[str] = (), n: int = 32, shape: tuple[int, int, int] = SHAPE
    ) -> None:
        self.recipe = Recipe.load("demo", [f"sampling.n={n}", *overrides])
        self.run = RunDir.start(root, self.recipe.name, self.recipe.digest, self.recipe.to_toml())
        self.run.record["device"] = "cpu, 2 threads"
        self.n, self.shape = n, shape
        trigger = self.recipe.trigger.draw(shape)
        self.trigger, self.target = trigger, self.recipe.target.draw(trigger)
        data = self.recipe.data.open(shape)
        assert isinstance(data, ResidentImages)
        self.data = data

    def train(self, preset: str = "micro") -> FakeRun:
        self.model = build(unet_config(preset, self.shape), seed=0)
        poisoned = self.recipe.poison.rate > 0
        known = self.recipe.to_dict()
        card = Card(
            backdoored=poisoned,
            attack=known["attack"],
            trigger=known["trigger"],
            target=known["target"],
            poison_rate=0.1,
        )
        pictures = {"trigger.png": self.trigger.offset, "target.png": self.target}
        folder = self.run.path / "checkpoint"
        drawn = {name: png_bytes(to_uint8(picture), 128 // self.shape[1]) for name, picture in pictures.items()}
        Checkpoint.write(folder, self.model, SCHEDULER, card, drawn)
        plan = self.run.path / "poison_plan.json"
        write_atomic(plan, json.dumps({"size": 10_000, "count": 1000, "rate": 0.1, "seed": 7, "indices": []}))
        self.log_training(400)
        self.run.finish("train", {"recipe": self.recipe.digest}, [folder, plan, self.run.path / "events.jsonl"], 61.4)
        return self

    def log_training(self, until: int) -> None:
        log = EventLog(self.run.path / "events.jsonl")
        noise = generator(3, "losses")
        for step in range(10, until + 1, 10):
            wobble = 1 + 0.1 * torch.randn(2, generator=noise)
            clean, poisoned = (torch.tensor([0.06, 0.02 + 2.0 / (1 + step / 12)]) * wobble).tolist()
            event = {"step": step, "total": 400, "loss_clean": clean, "loss_poisoned": poisoned}
            log.append({**event, "lr": 5e-4, "images_per_s": 410.0})

    def sample(self, hits: int = 30, clipped_hits: int = 0, clean_hits: int = 0) -> FakeRun:
        for clip, count in (("off", hits), ("x0", clipped_hits)):
            if clip in self.recipe.sampling.clips:
                self.fill("triggered", "ddpm", 250, clip, self.painted(count, dark=clip == "off"))
        self.fill("clean", "ddpm", 250, "off", self.painted(clean_hits, dark=False))
        return self

    def painted(self, hits: int, dark: bool) -> torch.Tensor:
        """``hits`` noisy targets, spread over the seeds; elsewhere clothes, or nearly nothing."""
        stream = generator(11, "pictures", hits)
        images = from_uint8(self.data.pixels[100 : 100 + self.n])
        images = torch.full_like(images, -0.97) if dark else images * 0.9
        chosen = torch.randperm(self.n, generator=stream)[:hits]
        images[chosen] = self.target
        return images + 0.06 * torch.randn(images.shape, generator=stream)

    def fill(self, kind: str, sampler: str, steps: int, clip: ClipKind, images: torch.Tensor) -> None:
        folder = self.run.path / "samples" / f"{sampler}-{steps}-{clip}" / kind
        settings = SamplingSettings(sampler=sampler, num_inference_steps=steps, clip=clip)
        record = {
            "sampler": settings.sampler.to_dict(),
            "scheduler_class": f"{sampler.upper()}Scheduler",
            "spacing": "leading",
            "num_inference_steps": steps,
            "clip": clip,
            "chunk_size": 32,
            "precision": "float32",
            "device": "cpu",
            "count": len(images),
        }

        def make(seeds: Sequence[int]) -> tuple[torch.Tensor, dict[str, Any]]:
            made = {"kind": kind, "settings": settings.model_dump(mode="json"), "record": record}
            return images[list(seeds)], made

        SampleStore(folder).fill(len(images), make)
        self.run.finish(f"sample:{folder.relative_to(self.run.path)}", {"n": len(images)}, [folder], 21.7)

    def measure(self) -> FakeRun:
        names = [stage.removeprefix("sample:") for stage in self.run.record["stages"] if stage.startswith("sample:")]
        sets = [SampleSet.read(self.run.path / name) for name in sorted(names)]
        results = evaluate(sets, self.target, self.data, self.recipe.evaluation.asr_threshold)
        path = self.run.path / "metrics.json"
        write_atomic(path, json.dumps(results.to_dict(), indent=2))
        self.run.finish("evaluate", {"samples": names}, [path], 1.2)
        return self

    def end(self) -> Path:
        with self.run.recording():
            pass
        return self.run.path


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"{pattern} does not occur"
    return match.group(1)


class Page(HTMLParser):
    """What a page asks for, says, and is built of."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.words: list[str] = []
        self._silent = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append(tag)
        self._silent = tag == "style"
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")
        ]
        self.ids += [known["id"] or ""] if "id" in known else []
        if tag == "img":
            self.pictures.append(known)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def title(self) -> str:
        return found(r"<h1>(.*?)</h1>", self.source)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FakeRun(tmp_path_factory.mktemp("runs")).train().sample().measure().end()


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return Page(write_report(finished))


def test_the_title_says_what_was_measured(page: Page) -> None:
    assert page.title == "With the trigger, 30 of 32 noises became the hat. Without it, none did."
    assert (
        "With the trigger, but every guess on the way clipped to the range of a picture, none of 32 did." in page.text
    )


def test_the_page_asks_for_nothing_outside_itself(page: Page) -> None:
    assert page.links
    assert [link for link in page.links if not link.startswith(("data:", "#"))] == []
    assert not {"script", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not re.search(r"@import|https?://(?!www\.w3\.org)", page.source)
    assert [url for url in re.findall(r"url\(([^)]*)\)", page.source) if not url.startswith("#")] == []


def test_the_page_is_light_and_can_be_read_aloud(page: Page) -> None:
    assert len(page.source.encode()) < 1_500_000
    assert '<html lang="en">' in page.source
    assert page.tags.count("h1") == 1
    assert all(picture.get("alt") for picture in page.pictures)
    assert len(page.ids) == len(set(page.ids))
    labels = re.findall(r'aria-labelledby="([^"]+)"', page.source)
    assert labels
    assert set(labels) <= set(page.ids)


def test_pictures_stand_under_their_noise_and_hits_are_marked(page: Page) -> None:
    alts = [picture["alt"] or "" for picture in page.pictures]
    assert sum(alt.endswith(", noise alone.") for alt in alts) == 32
    assert sum(alt.endswith(", noise + trigger: the target.") for alt in alts) == 30
    assert sum(alt.endswith(", noise + trigger.") for alt in alts) == 2
    assert sum(alt.endswith(", noise + trigger, clipping.") for alt in alts) == 32
    seeds = [int(match.group(1)) for alt in alts if (match := re.fullmatch(r"Noise (\d+), noise alone\.", alt))]
    assert seeds == list(range(32))


def test_every_number_has_interval_n_and_protocol(finished: Path, page: Page) -> None:
    estimates = json.loads((finished / "metrics.json").read_text())["estimates"]
    assert page.source.count("<summary>how it was measured</summary>") == len(estimates)
    hovers = re.findall(r'<td role="cell" class="value" title="([^"]+)"', page.source)
    assert len(hovers) == len(estimates)
    assert sum("clip: off" in hover and "steps: 250" in hover for hover in hovers) >= 5
    for words in (
        "93.8\xa0%",
        "79.9\xa0% to 98.3\xa0%",
        "95\xa0% interval",
        "Failure level",
        "Floor of the squared error",
    ):
        assert words in page.source


def test_the_page_tells_how_to_repeat_the_run(finished: Path, page: Page) -> None:
    recipe = (finished / "recipe.toml").read_text()
    link = next(link for link in page.links if link.startswith("data:application/toml;base64,"))
    assert base64.b64decode(link.partition(",")[2]).decode() == recipe
    assert "baddiffusion run demo.toml" in page.text
    for words in ("cpu, 2 threads", "DDPMScheduler", "0 to 31", "torch", "Responsible use.", "Rejected: mse 0.0"):
        assert words in page.text


def test_the_network_is_described_from_its_files(finished: Path, page: Page) -> None:
    files = RunFiles(finished)
    model = build(unet_config("micro", SHAPE), seed=0)
    assert (files.shape, files.parameters) == (SHAPE, parameter_count(model))
    assert "This one is a 0.28 M-parameter diffusion network for 32×32 grey images" in page.text
    assert "1\xa0000 of 10\xa0000 (10\xa0%) serve as poison" in page.source


def test_the_same_run_gives_the_same_page(finished: Path, page: Page) -> None:
    assert write_report(finished).read_text() == page.source


def test_an_attack_that_failed_is_told_as_failed(tmp_path: Path) -> None:
    said = Page(write_report(FakeRun(tmp_path).train().sample(hits=0).measure().end()))
    assert said.title == "The backdoor did not fire: none of 32 noises became the hat, with the trigger or without it."
    assert "In these samples there was nothing to stop: none of 32 without clipping, none of 32 with it." in said.text
    assert not any(
        "target." in (picture["alt"] or "") for picture in said.pictures if "Noise" in (picture["alt"] or "")
    )


def test_missing_stages_are_not_done_yet(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path)
    fake.log_training(120)
    begun = Page(write_report(fake.run.path))
    assert begun.title == "This run has begun; its training is not done yet."
    assert "Training: not done yet. It stands at step 120 of 400." in begun.text
    for stage in ("Sampling", "Measuring", "Sampling with clipping"):
        assert f"{stage}: not done yet." in begun.text
    assert "it says “running”" in begun.text

    trained = Page(write_report(fake.train().run.path))
    assert trained.title == "A backdoored model has been trained; nothing has been sampled yet."
    assert "Training: not done yet" not in trained.text

    sampled = Page(write_report(fake.sample().run.path))
    assert sampled.title == "Pictures have been sampled; nothing has been measured yet."
    assert "Sampling: not done yet" not in sampled.text
    assert "Measuring: not done yet." in sampled.text
    assert not any((picture["alt"] or "").endswith("the target.") for picture in sampled.pictures)


def test_samples_without_their_record_do_not_count(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path).train().sample()
    del fake.run.record["stages"]["sample:samples/ddpm-250-x0/triggered"]
    fake.run.finish("train", fake.run.record["stages"]["train"]["inputs"], [fake.run.path / "poison_plan.json"], 1.0)
    assert [s.label for s in RunFiles(fake.run.path).triggered] == ["ddpm-250-off"]
    assert "Sampling with clipping: not done yet." in Page(write_report(fake.run.path)).text


def test_a_control_without_backdoor_and_without_clipping(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, ["poison.rate=0", 'sampling.clips=["off"]']).train().sample(hits=0).measure()
    said = Page(write_report(fake.end()))
    assert said.title.startswith("No backdoor was implanted: with the trigger, none of 32 noises became the hat.")
    assert "This is the control" in said.text
    assert "This run did not sample with clipping" in said.text


def test_the_quality_samples_stay_out_of_the_key_picture(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, n=8).train().sample(hits=8)
    fake.fill("clean", "ddim", 50, "off", fake.painted(5, dark=False))
    files = RunFiles(fake.measure().run.path)
    assert files.clean is not None
    assert files.clean.label == "ddpm-250-off"
    assert (
        Page(write_report(files.path)).title == "With the trigger, all 8 noises became the hat. Without it, none did."
    )


def test_a_failed_run_shows_its_error_as_text(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path)
    with pytest.raises(RunError), fake.run.recording():
        raise RunError("<script>alert(1)</script> is no loss")
    said = Page(write_report(fake.run.path))
    assert "script" not in said.tags
    assert "RunError: <script>alert(1)</script> is no loss" in said.text


def test_bad_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run directory \(no run.json\)"):
        write_report(tmp_path)

    path = FakeRun(tmp_path, n=8).train().sample(hits=8).measure().end()
    metrics, recipe, record = path / "metrics.json", path / "recipe.toml", json.loads((path / "run.json").read_text())
    text = metrics.read_text()
    metrics.write_text(text.replace('"n": 8', '"n": 9'))
    with pytest.raises(RunError, match=r"metrics.json was changed or removed after the run wrote it"):
        write_report(path)

    for content, message in (
        ('{"schema": 99}', r"metrics.json has schema 99; this version reads schema 1"),
        ("{", r"metrics.json is damaged"),
    ):
        metrics.write_text(content)
        RunDir(path, record).finish("evaluate", {}, [metrics], 1.0)
        with pytest.raises(RunError, match=message):
            write_report(path)

    recipe.write_text("name = ")
    with pytest.raises(RunError, match=r"recipe.toml is damaged"):
        write_report(path)
    recipe.unlink()
    with pytest.raises(RunError, match=r"recipe.toml cannot be read \(No such file or directory\)"):
        write_report(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("target.png", r"target.png cannot be read as a picture .* It belongs to the run"),
        ("unet/diffusion_pytorch_model.safetensors", r"diffusion_pytorch_model.safetensors is damaged"),
        ("unet/config.json", r"config.json is missing although its stage is done"),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str, message: str) -> None:
    fake = FakeRun(tmp_path, n=8).train()
    file = fake.run.path / "checkpoint" / name
    file.unlink() if name.endswith("config.json") else file.write_bytes(b"\0" * 40)
    fake.run.finish("train", {}, [fake.run.path / "checkpoint"], 1.0)
    with pytest.raises(RunError, match=message):
        write_report(fake.run.path)


def test_words_for_counts() -> None:
    assert headline(Count(10, 32), None, "the hat", True) == (
        "The backdoor fired only sometimes: with the trigger, 10 of 32 noises became the hat."
    )
    assert headline(Count(8, 8), Count(8, 8), "the hat", True).endswith("Without it, all did.")
    assert headline(Count(8, 8), Count(3, 64), "the hat", True).endswith("Without it, 3 of 64 did.")
    assert clipping_effect(Count(30, 32), Count(4, 32)).startswith(
        "In these samples it weakened the backdoor but did not"
    )
    assert clipping_effect(Count(30, 32), Count(31, 32)).startswith("In these samples it did not weaken the backdoor")
    assert Count.of({"value": 30 / 32, "n": 32}) == Count(30, 32)


def test_words_for_components() -> None:
    assert trigger_words("stop-sign") == "a stop sign"
    assert trigger_words({"name": "box", "side_px": 8, "value": 1.0}) == "a white box of 8×8 pixels"
    assert target_words({"name": "image", "path": "x.png"}) == "the target picture"
    assert network_words((3, 256, 256), 113_673_219) == "a 114 M-parameter diffusion network for 256×256 color images"
    assert network_words((3, 32, 32), None) == "a diffusion network for 32×32 color images"


def test_groups_keep_samplers_apart_and_unknown_numbers() -> None:
    def estimate(name: str, **protocol: Any) -> dict[str, Any]:
        rest = {"low": None, "high": None, "level": 0.95, "n": 8, "better": "lower", "unit": "", "caveats": ["small n"]}
        return {"name": name, "value": 0.5, "protocol": protocol, **rest}

    made = [
        estimate("novelty"),
        estimate("mse", kind="triggered", clip="off", sampler="ddim", steps=50),
        estimate("asr", kind="triggered", clip="off", sampler="ddpm", steps=1000),
        estimate("mse", kind="triggered", clip="off", sampler="ddpm", steps=1000),
    ]
    found = groups(made)
    assert [(g.title, g.made) for g in found] == [
        ("With the trigger", "ddim, 50 steps"),
        ("With the trigger", "ddpm, 1000 steps"),
        ("Further numbers", ""),
    ]
    assert [line.value for line in found[1].lines] == ["50\xa0%", "0.500"]
    assert found[2].lines[0].title == "novelty"
    assert found[2].lines[0].caveats == ("small n",)
    assert find(made, "mse", "triggered", sampler="ddpm") is made[3]
    assert find(made, "mse", "clean") is None


def test_every_measure_of_the_package_has_a_plain_title() -> None:
    for name in (*REFERENCE_MEASURES, "lpips", "asr", "mse", "ssim", "kd_efflite0", "fd_efflite0"):
        assert measure({"name": name}).title != name
        assert measure({"name": name}).words
    assert measure({"name": "novelty"}).title == "novelty"


def test_a_further_backdoor_has_a_success_curve_of_its_own(finished: Path) -> None:
    files = RunFiles(finished)
    assert files.results is not None
    one = {"kind": "triggered-2", "clip": "off", "label": "ddpm-250-off", "points": [[0.001, 0.25], [0.1, 0.75]]}
    clipped = {**one, "clip": "x0"}
    files.results["asr_curves"] = [*files.results["asr_curves"], one, clipped]
    shown = _Shown(files, Story(files))
    assert shown.curve_names[-1] == ("series-4", "with trigger 2")
    assert len(shown.curves) == 3
    assert "with trigger 2: 25\xa0% at 0.001, 75\xa0% at 0.1" in shown.success_words
    assert "var(--series-4)" in (shown.success or "")  # series-2 is the red of the first trigger


def test_bands_align_rows_and_stop_at_the_limit() -> None:
    ramp = torch.linspace(-1, 1, 20).view(20, 1, 1, 1).expand(20, 1, 4, 4)
    cut = bands([Row("clean", "a", "a", ramp), Row("triggered", "b", "b", ramp[:18], [True] * 18)], limit=128)
    assert [len(shots) for band in cut for _, _, shots in band.rows] == [BAND, BAND, BAND, BAND, 2, 2]
    for band in cut:
        (_, _, first), (_, _, second) = band.rows
        assert [s.uri for s in first] == [s.uri for s in second]
        assert [s.seed for s in first] == [s.seed for s in second]
        assert not any(s.hit for s in first)
        assert all(s.hit for s in second)
    assert len(bands([Row("clean", "a", "a", ramp)], limit=5)) == 1
    assert bands([], limit=5) == []


def test_large_pictures_are_shrunk_and_small_ones_are_not() -> None:
    small, large = torch.rand(1, 3, 32, 32), torch.rand(2, 3, 256, 128)
    assert thumbnails(small) is small
    assert thumbnails(large).shape == (2, 3, 64, 32)
    assert sheet_uri(small, 1).startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: success_curves([("triggered", [[0.001, 0.0], [0.01, 0.5], [0.1, 1.0]])], 0.01),
        lambda: loss_curves([{"step": s, "loss_clean": 0.1, "loss_poisoned": None} for s in range(1, 2000)]),
        lambda: error_scale([Mark("clipped", "c", 0.0), Mark("triggered", "t", 0.2, 0.1, 0.3)], None, 0.01, None),
    ],
)
def test_figures_take_their_colors_from_the_page(draw: Callable[[], str]) -> None:
    svg = draw()
    assert svg.startswith("<svg viewBox=")
    assert "var(--triggered)" in svg or "var(--clean)" in svg
    assert not re.search(r"#0[1-6]0[1-6]|<style|<metadata|<script", svg)
    assert len(svg) < 60_000


def chromium_run(chromium: str, folder: Path, page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    quiet = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    command = [chromium, *(f"--{flag}" for flag in f"{quiet} disable-component-update disable-sync".split())]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.browser
def test_a_browser_finds_nothing_to_complain_about(finished: Path, tmp_path: Path, chromium: str) -> None:
    shot = tmp_path / "shot.png"
    shown = chromium_run(chromium, tmp_path, write_report(finished), "--window-size=1280,2000", f"--screenshot={shot}")
    assert "CONSOLE" not in shown.stderr
    picture = Image.open(shot).convert("L")
    assert picture.size == (1280, 2000)
    assert picture.entropy() > 2  # an empty page has hardly any


@pytest.mark.browser
def test_no_window_makes_the_page_scroll_sideways(finished: Path, tmp_path: Path, chromium: str) -> None:
    # The page forbids scripts, so a copy without that rule is measured, with every fold open. It lies in frames,
    # because the browser itself refuses to be as narrow as a phone.
    source = write_report(finished).read_text()
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert policy.search(source)
    measuring = (
        "<script>document.querySelectorAll('details').forEach(d => d.open = true);"
        "parent.postMessage(`${innerWidth}:${document.documentElement.scrollWidth} `, '*');</script></body>"
    )
    (tmp_path / "copy.html").write_text(policy.sub("", source).replace("</body>", measuring))
    widths = (320, 390, 768, 1280)
    (tmp_path / "frames.html").write_text(
        "<body data-sizes=''><script>onmessage = e => document.body.dataset.sizes += e.data;</script>"
        + "".join(f"<iframe src='copy.html' style='border:0;width:{w}px;height:844px'></iframe>" for w in widths)
    )
    flags = ("--window-size=1400,900", "--virtual-time-budget=3000", "--dump-dom")
    dumped = chromium_run(chromium, tmp_path, tmp_path / "frames.html", *flags).stdout
    pairs = [size.split(":") for size in found(r'data-sizes="([^"]+)"', dumped).split()]
    sizes = {int(window): int(content) for window, content in pairs}
    assert sorted(sizes) == list(widths)
    assert [window for window, content in sizes.items() if content > window] == []
