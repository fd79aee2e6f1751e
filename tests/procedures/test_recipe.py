from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baddiffusion.errors import RecipeError
from baddiffusion.recipe import Recipe, packaged_recipes

MINIMAL = 'name = "mine"\ndata = "fashion-mnist"\n'


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(MINIMAL)
    return file


def refused(path: Path | str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- what a recipe is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_packaged_recipe_loads_by_its_name(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe == Recipe.load(packaged_recipes()[name])
    first, *head = packaged_recipes()[name].read_text().splitlines()
    assert first.startswith(f"# baddiffusion run {name}")
    assert any(line.startswith("# Cost: ") for line in head)


@pytest.mark.parametrize("name", packaged_recipes())
def test_the_resolved_recipe_is_read_back_equal(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    again = Recipe.load(tmp_path / "recipe.toml")
    assert again == recipe
    assert again.digest == recipe.digest
    assert again.to_toml() == recipe.to_toml()
    assert json.loads(json.dumps(recipe.to_dict())) == recipe.to_dict()


def test_there_are_recipes_for_the_paper_the_demo_and_the_packaged_models() -> None:
    assert {"demo", "packaged-clean", "packaged-backdoored", "paper-cifar10", "cifar10-tiny"} <= set(packaged_recipes())


def test_every_default_is_written_out(mine: Path) -> None:
    written = Recipe.load(mine).to_dict()
    assert written["trigger"] == {"name": "box", "side_px": 14, "value": 0.0}
    assert written["attack"] == {"name": "baddiffusion"}
    assert written["poison"] == {"rate": 0.1}
    assert written["training"]["learning_rate"] == 2e-4
    assert written["sampling"]["sampler"]["name"] == "ddpm"


def test_aliases_and_tables_name_the_same_component(mine: Path) -> None:
    by_alias = Recipe.load(mine, ["trigger=BOX_11"])
    assert by_alias == Recipe.load(mine, ['trigger={name = "box", side_px = 11}'])
    assert by_alias.to_dict()["trigger"]["side_px"] == 11


def test_the_digest_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text(MINIMAL + "seed = 3\n[poison]\nrate = 0.2\n[training]\nnum_epochs = 2\nuse_ema = true\n")
    other.write_text("seed = 3\n" + MINIMAL + "[training]\nuse_ema = true\nnum_epochs = 2\n[poison]\nrate = 0.20\n")
    assert Recipe.load(one).digest == Recipe.load(other).digest
    assert len(Recipe.load(one).digest) == 8


def test_writing_a_default_out_does_not_change_the_digest(mine: Path) -> None:
    assert Recipe.load(mine, ["poison.rate=0.1", "trigger.side_px=14"]).digest == Recipe.load(mine).digest


CHANGES = [
    "name=other",
    "seed=1",
    "data.limit=10",
    "model.preset=micro",
    "model.channels=3",
    "model.base=somewhere",
    "attack=clean",
    "trigger.side_px=8",
    "trigger.value=0.5",
    "trigger.top_px=0",
    "target=corner",
    "poison.rate=0.2",
    "training.train_batch_size=64",
    "training.max_train_steps=7",
    "training.use_ema=true",
    "sampling.n=7",
    "sampling.sampler=ddim",
    "sampling.num_inference_steps=7",
    'sampling.clips=["off"]',
    "sampling.chunk_size=7",
    "evaluation.asr_threshold=0.02",
    "evaluation.quality_n=512",
]


def test_every_value_changes_the_digest(mine: Path) -> None:
    digests = [Recipe.load(mine).digest, *(Recipe.load(mine, [change]).digest for change in CHANGES)]
    assert len(set(digests)) == len(CHANGES) + 1


# -- overrides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("poison.rate=0.05", lambda r: r.poison.rate == 0.05),
        (" poison.rate = 0.05 ", lambda r: r.poison.rate == 0.05),
        ("seed=7", lambda r: r.seed == 7),
        ("name=other", lambda r: r.name == "other"),
        ('name="other"', lambda r: r.name == "other"),
        ("trigger.side_px=8", lambda r: r.to_dict()["trigger"] == {"name": "box", "side_px": 8, "value": 0.0}),
        ("sampling.sampler.name=ddim", lambda r: r.to_dict()["sampling"]["sampler"]["name"] == "ddim"),
        ('sampling.clips=["x0"]', lambda r: r.sampling.clips == ("x0",)),
        ('sampling.clips=["off", "xt"]', lambda r: r.sampling.clips == ("off", "xt")),
        ("data.limit=12", lambda r: r.to_dict()["data"] == {"name": "fashion-mnist", "limit": 12}),
        ("model.base=a=b", lambda r: r.model.base == "a=b"),
        ("model.base=", lambda r: r.model.base == ""),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_an_override_sets_one_value(mine: Path, override: str, read: Any) -> None:
    mine.write_text(MINIMAL + 'trigger = "box"\n')
    assert read(Recipe.load(mine, [override]))


def test_the_last_override_counts(mine: Path) -> None:
    assert Recipe.load(mine, ["seed=1", "seed=2"]).seed == 2


def test_a_component_given_by_an_alias_can_still_be_changed(mine: Path) -> None:
    mine.write_text(MINIMAL + 'trigger = "BOX_11"\n')
    recipe = Recipe.load(mine, ["trigger.value=0.5"])
    assert recipe.to_dict()["trigger"] == {"name": "box", "side_px": 11, "value": 0.5}


def test_a_default_component_can_be_changed_without_naming_it(mine: Path) -> None:
    assert Recipe.load(mine, ["trigger.side_px=8"]) == Recipe.load(mine, ['trigger={name = "box", side_px = 8}'])
    assert Recipe.load(mine, ["sampling.sampler.spacing=trailing"]).to_dict()["sampling"]["sampler"]["name"] == "ddpm"


# -- mistakes ----------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("poison.rate=10", "poison.rate is 10; it must lie in [0, 1]. Write 0.10 for ten percent. (mine.toml)"),
    ("poison.rate=-0.1", "poison.rate is -0.1; it must lie in [0, 1]. Write 0.10 for ten percent. (mine.toml)"),
    ("poison.rate=nan", "poison.rate is nan; it must be a finite number. Write 0.10 for ten percent. (mine.toml)"),
    ("poison.rate=much", "poison.rate is 'much'; it must be a valid number, unable to parse string as a number."),
    ("poison.rates=0.1", "poison.rates is not a known key. Did you mean 'rate'? Known keys: rate. (mine.toml)"),
    ("poisn.rate=0.1", "poisn is not a known key. Did you mean 'poison'? Known keys: attack, data, "),
    ("poison=0.1", "poison is 0.1; it must be a table. (mine.toml)"),
    ("name=a/b", "name is 'a/b'; "),
    ("name=../up", "name is '../up'; "),
    ("name=", "name is ''; "),
    ("name=3", "name is 3; it must be a valid string. "),
    ("seed=1.5", "seed is 1.5; it must be a valid integer, got a number with a fractional part. (mine.toml)"),
    ("trigger=bocks", "trigger.name 'bocks' is not a known trigger. Did you mean 'box'? Known: "),
    ("trigger.side_px=0", "trigger.side_px is 0; it must be at least 1. (mine.toml)"),
    ("trigger.sidepx=3", "trigger.sidepx is not a known key. Did you mean 'side_px'? Known keys: "),
    ("trigger=3", "trigger.name is missing from 3; a trigger is a name or a table with a name, for example name = "),
    ("trigger.value=2", "trigger.value is 2; it must lie in (-1, 1]. "),
    ("target=hatt", "target.name 'hatt' is not a known target. Did you mean 'hat'? Known: "),
    ("attack=badiffusion", "attack.name 'badiffusion' is not a known attack. Did you mean 'baddiffusion'? Known: "),
    ("data=mnist", "data.name 'mnist' is not a known data set. Did you mean "),
    (
        "model.preset=tinny",
        "model.preset is 'tinny'. Did you mean 'tiny'? Known: ddpm-cifar10, ddpm-celebahq, tiny, micro.",
    ),
    ("model.channels=0", "model.channels is 0; it must be 1 or 3. (mine.toml)"),
    ("model.resolution=4", "model.resolution is 4; it must lie in [8, 1024]. (mine.toml)"),
    ("training.learning_rate=2", "training.learning_rate is 2; it must lie in (0, 1]. (mine.toml)"),
    ("training.max_train_steps=0", "training.max_train_steps is 0; it must be at least 1. (mine.toml)"),
    ("training.batch_size=1", "training.batch_size is not a known key. Did you mean 'train_batch_size'? Known keys: "),
    ("sampling.n=0", "sampling.n is 0; it must be at least 1. (mine.toml)"),
    ("sampling.sampler=dppm", "sampling.sampler.name 'dppm' is not a known sampler. Did you mean 'ddpm'? Known: "),
    ('sampling.clips=["on"]', "sampling.clips.0 is 'on'; it must be 'off', "),
    ("sampling.num_inference_steps=-1", "sampling.num_inference_steps is -1; it must be at least 0. (mine.toml)"),
    ("sampling.chunk_size=0", "sampling.chunk_size is 0; it must be at least 1. (mine.toml)"),
    ("sampling.precision=fp16", "sampling.precision is 'fp16'; it must be 'auto', 'float32' or 'bf16'. (mine.toml)"),
    ("evaluation.asr_threshold=0", "evaluation.asr_threshold is 0; it must lie in (0, 1). (mine.toml)"),
    ("evaluation.quality_n=-1", "evaluation.quality_n is -1; it must be at least 0. (mine.toml)"),
    ("poison.rate", "--set 'poison.rate' is not key=value; write for example --set poison.rate=0.05. (mine.toml)"),
    ("=3", "--set '=3' is not key=value; write for example --set poison.rate=0.05. (mine.toml)"),
    ("seed.deep=3", "--set 'seed.deep=3': seed is a value, not a table. (mine.toml)"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[o for o, _ in MISTAKES])
def test_every_mistake_is_told_in_one_line_that_ends_with_the_file(mine: Path, override: str, message: str) -> None:
    mine.write_text(MINIMAL + "seed = 0\n")
    said = refused(mine, override)
    assert said.startswith(message)
    assert said.endswith(" (mine.toml)")


def test_the_same_mistake_in_the_file_reads_the_same(mine: Path) -> None:
    mine.write_text(MINIMAL + "[poison]\nrate = 10\n")
    assert refused(mine) == "poison.rate is 10; it must lie in [0, 1]. Write 0.10 for ten percent. (mine.toml)"


def test_what_a_recipe_cannot_do_without(mine: Path) -> None:
    mine.write_text('name = "mine"\n')
    assert refused(mine).startswith("data is missing.")
    mine.write_text('data = "fashion-mnist"\n')
    assert refused(mine).startswith("name is missing.")


@pytest.mark.parametrize(
    "text", ["name = ", "= 3", "name = mine", "[poison\nrate = 1", 'name = "a"\nname = "b"'], ids=repr
)
def test_what_is_not_toml_is_told_with_its_place(mine: Path, text: str) -> None:
    mine.write_text(text)
    said = refused(mine)
    assert said.startswith("mine.toml is not valid TOML: ")
    assert "line " in said or "at end of document" in said


def test_a_binary_file_is_told(mine: Path) -> None:
    mine.write_bytes(b"\xff\xfe\x00")
    assert refused(mine).startswith("mine.toml is not valid TOML: ")


def test_paths_that_are_no_recipe_are_told(tmp_path: Path) -> None:
    known = ", ".join(packaged_recipes())
    said = refused("demmo")
    assert said == f"recipe 'demmo' is neither a file nor a packaged recipe. Did you mean 'demo'? Packaged: {known}."
    assert refused(str(tmp_path / "absent.toml")).endswith(f"Packaged: {known}.")
    assert refused(tmp_path) == f"{tmp_path} is a folder; give a recipe file (.toml) or the name of a packaged recipe."


def test_a_folder_does_not_hide_the_packaged_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert Recipe.load("demo").digest == Recipe.load(packaged_recipes()["demo"]).digest
    (tmp_path / "demo").rmdir()
    (tmp_path / "demo").write_text("name = 'mine'")
    assert refused("demo") == "data is missing. (demo)"


def test_a_file_that_cannot_be_read_is_told(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    assert refused(mine) == f"{mine} cannot be read (Permission denied)."


def test_a_recipe_names_components_and_cannot_import_code(mine: Path) -> None:
    for name in ("os.system", "baddiffusion.triggers.box.Box", "__import__"):
        assert refused(mine, f"trigger={name}").startswith(f"trigger.name '{name}' is not a known trigger.")
