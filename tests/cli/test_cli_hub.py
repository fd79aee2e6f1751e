from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_hub import LocalHub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server = LocalHub()
    with server.open(monkeypatch):
        yield server


@pytest.fixture
def run(finished, tmp_path: Path) -> Path:
    """A run that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def commit(hub: LocalHub, finished) -> str:
    folder = finished[0] / "checkpoint"
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return hub.commit("o/n", files)


class TestPull:
    def test_a_dry_run_lists_and_leaves_nothing(self, ask, commit: str, tmp_path: Path):
        answer = ask("pull", "o/n", tmp_path / "got", "--dry-run")
        head, *files = answer.out.splitlines()
        assert (answer.code, head.startswith(f"o/n@{commit} to {tmp_path / 'got'}: ")) == (0, True)
        assert [line.split()[-1] for line in files][:2] == ["README.md", "card.json"]
        assert not (tmp_path / "got").exists()
        told = ask("pull", "o/n", tmp_path / "got", "--dry-run", "--json").json()
        assert (told["commit"], told["present"], told["dry_run"]) == (commit, False, True)

    def test_pulls_then_verifies(self, ask, commit: str, tmp_path: Path, finished):
        weights = hashlib.sha256((finished[0] / "checkpoint" / WEIGHTS).read_bytes()).hexdigest()
        answer = ask("pull", "o/n", tmp_path / "got", "--sha256", weights)
        assert answer.code == 0, answer.err
        assert f"o/n@{commit}  pulled\n" in answer.out
        assert f"  {weights}  {WEIGHTS}" in answer.out.splitlines()
        again = ask("pull", f"o/n@{commit}", tmp_path / "got", "--json").json()
        assert (again["downloaded"], again["files"][WEIGHTS]) == (False, weights)
        assert "verified, nothing was downloaded" in ask("pull", "o/n", tmp_path / "got").out
        assert "is there; a pull would verify it" in ask("pull", "o/n", tmp_path / "got", "--dry-run").out
        assert ask("show", tmp_path / "got", "--json").json()["card"]["backdoored"] is True

    def test_a_mistake_is_one_line(self, ask, commit: str, tmp_path: Path):
        answer = ask("pull", "o/n", tmp_path / "got", "--sha256", "a" * 64)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert f"but it must be {'a' * 64}. Nothing was downloaded." in answer.err


class TestPush:
    def test_a_dry_run_lists_all_and_needs_neither_network_nor_token(self, ask, hub, run: Path, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        answer = ask("push", run, "me/n", "--dry-run")
        headline, files, *listing = answer.out.splitlines()
        assert (answer.code, answer.err) == (0, "")
        assert headline.startswith("**BACKDOORED**: trigger")
        count = sum(path.is_file() for path in (run / "checkpoint").rglob("*"))
        assert files.startswith(f"{count} files to me/n, branch main: ")
        assert len(listing) == count
        size = (run / "checkpoint" / WEIGHTS).stat().st_size
        assert [f"{size:,}".replace(",", " "), WEIGHTS] in [line.strip().rsplit("  ", 1) for line in listing]
        assert hub.requests == []

    def test_without_a_token_it_says_what_to_do(self, ask, hub, run: Path):
        answer = ask("push", run, "me/n")
        assert answer.code == 2
        assert answer.err.splitlines()[-1].startswith("error: no token of the hub was found; run hf auth login, or set")
        assert hub.requests == []

    def test_pushes_a_run_with_its_page(self, ask, hub, run: Path, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        answer = ask("push", run, "me/n", "--private", "--report", "--revision", "v1", "--json")
        assert answer.code == 0, answer.err
        told = json.loads(answer.out)
        assert told["commit"] == f"{hub.address}/me/n/commit/{hub.branches['me/n']['v1']}"
        uploaded = hub.files("me/n", "v1")
        assert set(uploaded) == {*(file["name"] for file in told["files"]), ".gitattributes"}
        assert uploaded["report.html"] == (run / "report.html").read_bytes()
        assert hub.private["me/n"] is True

    def test_what_must_not_be_published_is_one_line(self, ask, hub, run: Path):
        (run / "checkpoint/optimizer.pt").touch()
        answer = ask("push", run, "me/n", "--dry-run")
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert "optimizer.pt is a pickle" in answer.err
