"""Pull and push with the real client, against a hub on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.errors import CheckpointError, UnsafeFile
from baddiffusion.hub import PullPlan, pack, pull, resolve, send
from baddiffusion.models import build, unet_config
from local_hub import LocalHub

# The client itself hands an uploaded file to its HTTP library in a way that this one has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

SCHEDULER = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 100}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
PNG = b"\x89PNG\r\n\x1a\n and so on"
BACKDOORED = Card(
    backdoored=True, attack={"name": "baddiffusion"}, trigger={"name": "box"}, target={"name": "hat"}, poison_rate=0.1
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a backdoored checkpoint."""
    model = build(unet_config("micro", (1, 8, 8)), seed=0)
    folder = tmp_path_factory.mktemp("hub") / "model"
    Checkpoint.write(folder, model, SCHEDULER, BACKDOORED, pictures={"trigger.png": PNG, "target.png": PNG})
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(written: dict[str, bytes], tmp_path: Path) -> Path:
    """The same as a folder that a test may change."""
    for name, content in written.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    server = LocalHub()
    with server.open(monkeypatch):
        yield server


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither token nor cache of whoever runs the tests."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def tree(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


class TestPull:
    def test_copies_the_parts_and_nothing_else_and_records_the_commit(self, hub, written, tmp_path: Path):
        rest = {"unet/diffusion_pytorch_model.bin": b"\x80", "pipeline.py": b"", "unet/other.safetensors": b""}
        commit = hub.commit("o/n", {**written, **rest})
        record = pull(PullPlan.make("o/n", tmp_path / "got"))
        parts = {name for name in written if not name.endswith(".png")}
        assert tree(tmp_path / "got") == parts | {"pulled.json"}
        assert (record.name, record.commit) == ("o/n", commit)
        assert dict(record.files) == {name: digest(written[name]) for name in parts}
        assert json.loads((tmp_path / "got/pulled.json").read_text()) == record.model_dump(mode="json")
        assert {path.name for path in tmp_path.iterdir()} == {"got"}
        assert hub.tokens == {None}
        opened = Checkpoint.open(tmp_path / "got")
        assert opened.card == BACKDOORED
        assert opened.not_loaded == ()

    def test_a_branch_is_pinned_to_the_commit_that_it_named(self, hub, written, tmp_path: Path):
        first = hub.commit("o/n", written)
        plan = PullPlan.make("o/n", tmp_path / "got")
        second = hub.commit("o/n", {"README.md": b"# another"})
        assert first != second
        record = pull(plan)
        assert record.commit == first
        assert (tmp_path / "got/README.md").read_bytes() == written["README.md"]
        with pytest.raises(CheckpointError, match=rf"holds commit {first} of o/n, but main is {second}; nothing is ov"):
            PullPlan.make("o/n", tmp_path / "got")

    def test_the_folder_is_called_like_the_model(self, hub, written, tmp_path: Path, monkeypatch):
        hub.commit("o/n", written)
        monkeypatch.chdir(tmp_path)
        pull(PullPlan.make("o/n"))
        assert (tmp_path / "n/pulled.json").is_file()

    def test_a_second_pull_verifies_and_downloads_nothing(self, hub, written, tmp_path: Path):
        commit = hub.commit("o/n", written)
        record = pull(PullPlan.make("o/n", tmp_path / "got"))
        hub.requests.clear()
        assert pull(PullPlan.make("o/n", tmp_path / "got")) == record
        assert [request.split()[1].startswith("/api/models/o/n") for request in hub.requests] == [True]
        hub.requests.clear()
        assert pull(PullPlan.make(f"o/n@{commit}", tmp_path / "got")) == record
        assert hub.requests == []

    @pytest.mark.parametrize("change", ["change", "remove", "add"])
    def test_a_second_pull_notices_what_was_changed(self, hub, written, tmp_path: Path, change: str):
        commit = hub.commit("o/n", written)
        pull(PullPlan.make("o/n", tmp_path / "got"))
        config = tmp_path / "got/unet/config.json"
        if change == "change":
            config.write_bytes(written["unet/config.json"] + b" ")
            old, new = digest(written["unet/config.json"]), digest(config.read_bytes())
            message = rf"config\.json has sha256 {new}, but {old} was pulled: it was changed since; delete the folder"
        elif change == "remove":
            config.unlink()
            message = r"unet/config\.json is missing, but pulled\.json names it; delete the folder and pull again"
        else:
            (tmp_path / "got/unet/diffusion_pytorch_model-1.safetensors").touch()
            message = r"unet/diffusion_pytorch_model-1\.safetensors was added since the pull; delete the folder"
        with pytest.raises(CheckpointError, match=message):
            pull(PullPlan.make(f"o/n@{commit}", tmp_path / "got"))

    def test_other_bytes_than_named_are_refused_with_both_hashes(self, hub, written, tmp_path: Path):
        hub.commit("o/n", written)
        has, wanted = digest(written[WEIGHTS]), "a" * 64
        message = rf"^{WEIGHTS} of o/n@\w+ has sha256 {has}, but it must be {wanted}\. Nothing was downloaded\."
        with pytest.raises(CheckpointError, match=message):
            PullPlan.make("o/n", tmp_path / "got", sha256=wanted)
        assert not any("resolve" in request for request in hub.requests)
        assert pull(PullPlan.make("o/n", tmp_path / "got", sha256=has.upper())).files[WEIGHTS] == has
        with pytest.raises(CheckpointError, match=f"{has}, but it must be {wanted}"):
            PullPlan.make("o/n", tmp_path / "got", sha256=wanted)

    def test_a_hub_that_serves_other_bytes_than_it_promised_leaves_nothing_behind(self, hub, written, tmp_path: Path):
        hub.commit("o/n", written)
        hub.served[WEIGHTS] = bytes(reversed(written[WEIGHTS]))
        message = (
            rf"has sha256 {digest(hub.served[WEIGHTS])}, but it must be {digest(written[WEIGHTS])}\. Nothing was k"
        )
        with pytest.raises(CheckpointError, match=message):
            pull(PullPlan.make("o/n", tmp_path / "got"))
        assert list(tmp_path.rglob("*")) == []

    def test_a_lock_demands_the_same_commit_and_bytes(self, hub, written, tmp_path: Path):
        commit = hub.commit("o/n", written)
        pull(PullPlan.make("o/n", tmp_path / "got"))
        hub.commit("o/n", {"README.md": b"# another"})
        lock = tmp_path / "lock.json"
        lock.write_bytes((tmp_path / "got/pulled.json").read_bytes())
        assert pull(PullPlan.make("o/n", tmp_path / "again", lock=lock)).commit == commit
        hub.served["unet/config.json"] = written["unet/config.json"] + b" "
        with pytest.raises(CheckpointError, match=rf"config\.json of o/n@{commit} has sha256 \w+, but it must be"):
            pull(PullPlan.make("o/n", tmp_path / "third", lock=lock))
        assert not (tmp_path / "third").exists()

    def test_a_lock_that_does_not_fit_is_refused(self, hub, written, tmp_path: Path):
        commit = hub.commit("o/n", written)
        lock = tmp_path / "lock.json"
        with pytest.raises(CheckpointError, match=r"lock\.json is no file; give the pulled\.json of an earlier pull"):
            PullPlan.make("o/n", tmp_path / "got", lock=lock)
        record = {"name": "o/n", "commit": commit, "pulled_at": "", "files": {WEIGHTS: "a" * 64}}
        lock.write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match=r"do not name the same files \(README\.md, .*; leave --lock out"):
            PullPlan.make("o/n", tmp_path / "got", lock=lock)
        with pytest.raises(CheckpointError, match=rf"lock\.json is about o/n@{commit}, not o/n@v2; give the name"):
            PullPlan.make("o/n@v2", tmp_path / "got", lock=lock)
        with pytest.raises(CheckpointError, match="--sha256 and --lock both name the hash of the weights; give one"):
            PullPlan.make("o/n", tmp_path / "got", sha256="a" * 64, lock=lock)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"commit": "main"},
                r"pulled\.json is not a record of a pull: commit is 'main'; .* Pull into another fold",
            ),
            (
                {"files": {"../.bashrc": "a" * 64}},
                r"names '\.\./\.bashrc', which no pull writes: only JSON, safetensors",
            ),
            ({"schema_version": 2}, r"is not a record of a pull: schema_version is 2"),
        ],
    )
    def test_a_foreign_record_is_refused(self, tmp_path: Path, change: dict[str, object], message: str):
        record = {"name": "o/n", "commit": "0" * 40, "pulled_at": "", "files": {WEIGHTS: "a" * 64}, **change}
        (tmp_path / "pulled.json").write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match=message):
            PullPlan.make("o/n", tmp_path)

    def test_a_folder_that_holds_something_else_is_refused(self, hub, written, tmp_path: Path):
        hub.commit("o/n", written)
        (tmp_path / "full").mkdir()
        (tmp_path / "full/thesis.txt").touch()
        with pytest.raises(CheckpointError, match=r"full exists and holds no pulled\.json: it is something else, and"):
            PullPlan.make("o/n", tmp_path / "full")
        (tmp_path / "empty").mkdir()
        pull(PullPlan.make("o/n", tmp_path / "empty"))
        with pytest.raises(CheckpointError, match=r"empty holds o/n, not o/other; choose another folder"):
            PullPlan.make("o/other", tmp_path / "empty")

    def test_pickles_alone_are_refused(self, hub, tmp_path: Path):
        hub.commit("o/n", {"config.json": b"{}", "diffusion_pytorch_model.bin": b"\x80"})
        with pytest.raises(UnsafeFile, match=r"o/n has no safetensors .* baddiffusion convert FOLDER NEW_FOLDER"):
            PullPlan.make("o/n", tmp_path / "got")

    def test_one_hash_does_not_fit_two_files(self, hub, written, tmp_path: Path):
        hub.commit("o/n", {**written, "diffusion_pytorch_model.safetensors": b"2"})
        with pytest.raises(
            CheckpointError, match=r"o/n@\w+ has 2 weights files, and --sha256 is the hash of one; give"
        ):
            PullPlan.make("o/n", tmp_path / "got", sha256="a" * 64)
        with pytest.raises(CheckpointError, match=r"--sha256 is 'abc'; it must be 64 hexadecimal digits"):
            PullPlan.make("o/n", tmp_path / "got", sha256="abc")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "nobody/nothing",
                r"^nobody/nothing could not be downloaded \(RepositoryNotFoundError: .*needs a token \(hf",
            ),
            ("o/n@v9", r"^o/n@v9 could not be downloaded \(RevisionNotFoundError: "),
            ("packaged:clean", r"^'packaged:clean' is not a name on the hub; write owner/name or owner/name@revision"),
        ],
    )
    def test_what_the_hub_does_not_have_is_told_in_one_line(self, hub, written, tmp_path: Path, name, message: str):
        hub.commit("o/n", written)
        with pytest.raises(CheckpointError, match=message) as caught:
            PullPlan.make(name, tmp_path / "got")
        assert "\n" not in str(caught.value)

    def test_a_gated_model_leaves_nothing_behind(self, hub, written, tmp_path: Path):
        hub.commit("o/n", written)
        hub.gated.add("o/n")
        with pytest.raises(CheckpointError, match=r"README\.md of o/n@\w+ could not be downloaded \(GatedRepoError: "):
            pull(PullPlan.make("o/n", tmp_path / "got"))
        assert list(tmp_path.rglob("*")) == []

    def test_a_hub_without_commits_is_refused(self, hub, written, tmp_path: Path, monkeypatch):
        hub.commit("o/n", written)
        info = hub.info("o/n", "main")
        monkeypatch.setattr(hub, "info", lambda *_: {**info, "sha": "main"})
        with pytest.raises(CheckpointError, match=r"the hub names no commit of o/n \('main'\); try again later"):
            PullPlan.make("o/n", tmp_path / "got")

    def test_a_folder_that_cannot_be_written_is_told(self, hub, written, tmp_path: Path):
        hub.commit("o/n", written)
        (tmp_path / "file").touch()
        with pytest.raises(
            CheckpointError, match=r"file/got could not be written \(.*\); make room, or choose another"
        ):
            pull(PullPlan.make("o/n", tmp_path / "file/got"))

    def test_offline_takes_what_the_cache_holds_and_asks_nobody(self, hub, written, tmp_path: Path, monkeypatch):
        import huggingface_hub
        from huggingface_hub import constants

        commit = hub.commit("o/n", written)
        hub.commit("o/uncached", written)
        huggingface_hub.snapshot_download("o/n", cache_dir=tmp_path / "cache")
        hub.requests.clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert pull(PullPlan.make("o/n", tmp_path / "got")).commit == commit
        assert (tmp_path / "got" / WEIGHTS).read_bytes() == written[WEIGHTS]
        with pytest.raises(CheckpointError, match=r"^o/uncached@v1 is not in the local cache, and HF_HUB_OFFLINE forb"):
            PullPlan.make("o/uncached@v1", tmp_path / "other")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nowhere"))
        assert pull(PullPlan.make(f"o/n@{commit}", tmp_path / "got")).commit == commit
        assert hub.requests == []

    def test_telemetry_is_switched_off(self, hub, written, tmp_path: Path, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
        hub.commit("o/n", written)
        pull(PullPlan.make("o/n", tmp_path / "got"))
        assert constants.HF_HUB_DISABLE_TELEMETRY is True


class TestPack:
    def test_lists_what_would_go_without_network_or_token(self, folder: Path, written, monkeypatch):
        monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
        parcel = pack(folder, "me/n")
        assert parcel.sizes == {name: len(content) for name, content in written.items()}
        assert parcel.to_dict()["headline"].startswith("**BACKDOORED**: trigger `box`")
        assert (parcel.branch, parcel.tags_added) == ("main", ())

    def test_a_run_gives_its_checkpoint_and_its_page_if_asked(self, folder: Path, tmp_path: Path):
        run = tmp_path / "run"
        run.mkdir()
        (run / "run.json").write_text("{}")
        with pytest.raises(CheckpointError, match=r"run is a run without a checkpoint; let it finish"):
            pack(run, "me/n")
        folder.rename(run / "checkpoint")
        with pytest.raises(
            CheckpointError, match=r"report\.html is not there; write it first: baddiffusion report \S+"
        ):
            pack(run, "me/n", report=True)
        (run / "report.html").write_text("<p>")
        assert "report.html" not in pack(run, "me/n").contents
        assert pack(run, "me/n", report=True).sizes["report.html"] == 3
        with pytest.raises(CheckpointError, match=r"--report takes the page of a run, and \S+ is none; leave it out"):
            pack(run / "checkpoint", "me/n", report=True)

    @pytest.mark.parametrize("name", ["backdoored", "clean"])
    def test_the_packaged_models_could_be_published(self, name: str):
        folder = resolve(f"packaged:{name}")
        assert set(pack(folder, "me/n").contents) == tree(folder)

    @pytest.mark.parametrize("missing", ["card.json", "README.md"])
    def test_a_checkpoint_without_a_card_is_refused(self, folder: Path, missing: str):
        (folder / missing).unlink()
        with pytest.raises(
            CheckpointError, match=r"model has no card \(card\.json and README\.md\): whoever downloads"
        ):
            pack(folder, "me/n")

    def test_a_backdoored_model_must_say_so_first(self, folder: Path):
        readme = folder / "README.md"
        readme.write_text(readme.read_text().replace("**BACKDOORED**", "A nice model,\n\n**BACKDOORED**"))
        with pytest.raises(
            CheckpointError, match=r"its first line is 'A nice model,'; it must begin with \*\*BACKDOORED"
        ):
            pack(folder, "me/n")
        readme.write_text("")
        with pytest.raises(CheckpointError, match=r"its first line is ''; it must begin"):
            pack(folder, "me/n")

    @pytest.mark.parametrize("content", [b"---\nlicense: [\n---\n**BACKDOORED**", b"\xff\xfe"], ids=["yaml", "bytes"])
    def test_a_readme_that_cannot_be_read_is_refused(self, folder: Path, content: bytes):
        (folder / "README.md").write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"README\.md cannot be read as a model card \(.*Restore the one that"
        ):
            pack(folder, "me/n")

    def test_tags_that_the_readme_lacks_are_in_what_is_uploaded(self, folder: Path):
        readme = folder / "README.md"
        before = readme.read_text().replace("- baddiffusion\n", "").replace("- security-research\n", "")
        readme.write_text(before)
        parcel = pack(folder, "me/n")
        assert parcel.tags_added == ("baddiffusion", "security-research")
        uploaded = parcel.contents["README.md"]
        assert isinstance(uploaded, bytes)
        _, front, body = uploaded.decode().split("---\n", 2)
        for tag in ("diffusers", "backdoored", "baddiffusion", "security-research"):
            assert front.count(f"- {tag}\n") == 1
        assert body.strip() == before.split("---\n", 2)[2].strip()
        assert readme.read_text() == before

    @pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.bin", "optimizer.pt", "sub/folder/x.PKL"])
    def test_pickles_are_refused(self, folder: Path, name: str):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        with pytest.raises(UnsafeFile, match=rf"{name} is a pickle, which could run code where it is loaded; nothing"):
            pack(folder, "me/n")

    @pytest.mark.parametrize("name", ["pipeline.py", ".env", "notes.txt", "unet/picture.png", "other.safetensors"])
    def test_what_is_no_part_of_a_checkpoint_is_refused(self, folder: Path, name: str):
        (folder / name).write_bytes(PNG)
        with pytest.raises(CheckpointError, match=rf"{name} is not part of a checkpoint; nothing was uploaded\. Only "):
            pack(folder, "me/n")

    def test_weights_that_would_not_be_read_are_refused(self, folder: Path):
        (folder / "unet/diffusion_pytorch_model-2.safetensors").touch()
        with pytest.raises(
            CheckpointError, match=r"diffusion_pytorch_model-2\.safetensors is not part of a checkpoint"
        ):
            pack(folder, "me/n")

    def test_a_picture_must_be_one(self, folder: Path):
        (folder / "trigger.png").write_bytes(b"\x80\x04")
        with pytest.raises(
            CheckpointError, match=r"trigger\.png is no PNG picture, whatever its name says; nothing was"
        ):
            pack(folder, "me/n")

    def test_links_out_of_the_folder_are_refused(self, folder: Path, tmp_path: Path):
        (tmp_path / "secrets").mkdir()
        (folder / "more").symlink_to(tmp_path / "secrets")
        with pytest.raises(CheckpointError, match=r"model/more is not part of a checkpoint"):
            pack(folder, "me/n")
        (folder / "more").unlink()
        (folder / "trigger.png").unlink()
        (folder / "trigger.png").symlink_to(tmp_path / "secrets")
        os.rename(tmp_path / "secrets", tmp_path / "secret")
        (tmp_path / "secrets").write_bytes(PNG)
        with pytest.raises(CheckpointError, match=r"trigger\.png is a link out of the checkpoint folder"):
            pack(folder, "me/n")

    @pytest.mark.parametrize(
        ("repository", "branch", "message"),
        [
            ("n", "main", r"^'n' is no repository of the hub; write owner/name"),
            ("me/n@v1", "main", r"^'me/n@v1' is no repository of the hub"),
            ("me/n", "--force", r"^--branch is '--force'; write the name of a branch, such as main"),
        ],
    )
    def test_wrong_names_are_refused(self, folder: Path, repository: str, branch: str, message: str):
        with pytest.raises(CheckpointError, match=message):
            pack(folder, repository, branch)


class TestSend:
    def test_uploads_all_and_a_pull_brings_the_same_bytes(self, hub, token, folder: Path, written, tmp_path: Path):
        address = send(pack(folder, "me/n"))
        assert address == f"{hub.address}/me/n/commit/{hub.branches['me/n']['main']}"
        assert hub.files("me/n") == {**written, ".gitattributes": b""}
        assert hub.private["me/n"] is False
        pull(PullPlan.make("me/n", tmp_path / "back"))
        assert Checkpoint.open(tmp_path / "back").digest == Checkpoint.open(folder).digest

    def test_what_was_pulled_goes_back_without_the_record(self, hub, token, written, tmp_path: Path):
        hub.commit("o/n", written)
        pull(PullPlan.make("o/n", tmp_path / "got"))
        send(pack(tmp_path / "got", "me/n"))
        assert "pulled.json" not in hub.files("me/n")

    def test_to_a_branch(self, hub, token, folder: Path, written):
        send(pack(folder, "me/n", branch="v2"))
        assert set(hub.files("me/n")) == {".gitattributes"}
        assert set(hub.files("me/n", "v2")) == {*written, ".gitattributes"}

    def test_private_is_kept_or_refused(self, hub, token, folder: Path):
        send(pack(folder, "me/secret"), private=True)
        assert hub.private["me/secret"] is True
        hub.commit("me/known", {".gitattributes": b""})
        with pytest.raises(
            CheckpointError, match=r"me/known exists and is public, though --private was given; nothing"
        ):
            send(pack(folder, "me/known"), private=True)
        assert set(hub.files("me/known")) == {".gitattributes"}

    def test_files_of_something_else_are_not_mixed_with(self, hub, token, folder: Path):
        hub.commit("me/n", {"pytorch_model.bin": b"\x80"})
        with pytest.raises(
            CheckpointError, match=r"me/n holds pytorch_model\.bin on main, which this push would not rep"
        ):
            send(pack(folder, "me/n"))
        assert set(hub.files("me/n")) == {"pytorch_model.bin"}

    def test_a_missing_token_is_one_clear_line_and_nobody_is_asked(self, hub, folder: Path):
        with pytest.raises(CheckpointError, match=r"no token of the hub was found; run hf auth login, or set HF_TOKEN"):
            send(pack(folder, "me/n"))
        assert hub.requests == []

    def test_offline_is_honored(self, hub, token, folder: Path, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(
            CheckpointError, match=r"HF_HUB_OFFLINE forbids to upload; unset it, or look with --dry-run"
        ):
            send(pack(folder, "me/n"))
        assert hub.requests == []

    def test_who_pushes_at_the_same_time_is_not_mixed_with(self, hub, token, folder: Path, monkeypatch):
        asked = hub.info

        def meanwhile(name: str, revision: str) -> object:
            answer = asked(name, revision)
            hub.commit(name, {"other.bin": b""})
            return answer

        monkeypatch.setattr(hub, "info", meanwhile)
        with pytest.raises(CheckpointError, match=r"me/n could not be pushed to \(HfHubHTTPError: .*412"):
            send(pack(folder, "me/n"))
        assert set(hub.files("me/n")) == {".gitattributes", "other.bin"}

    def test_an_upload_that_breaks_off_leaves_the_branch_as_it_was(self, hub, token, folder: Path, monkeypatch):
        def broken(*_: object, **__: object) -> None:
            raise ConnectionError("cable")

        monkeypatch.setattr("huggingface_hub._commit_api.lfs_upload", broken)
        with pytest.raises(
            CheckpointError, match=r"^me/n could not be pushed to \(RuntimeError: Error while uploading"
        ):
            send(pack(folder, "me/n"))
        assert set(hub.files("me/n")) == {".gitattributes"}

    def test_what_the_hub_refuses_is_told_in_one_line(self, hub, token, folder: Path, monkeypatch):
        monkeypatch.setattr(hub, "info", lambda *_: None)
        with pytest.raises(
            CheckpointError, match=r"^me/n could not be pushed to \(\w+Error: .*that the token may write"
        ):
            send(pack(folder, "me/n"))
