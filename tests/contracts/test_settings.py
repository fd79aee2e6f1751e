from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BeforeValidator, Field, model_validator

from baddiffusion.errors import RecipeError
from baddiffusion.settings import Settings
from baddiffusion.training import TrainingSettings
from baddiffusion.triggers import TRIGGERS, TriggerDesign


class Inner(Settings):
    share: Annotated[float, Field(ge=0, le=1, json_schema_extra={"hint": "Write 0.10 for ten percent."})] = 0.5
    needed: int = 1


class Deeper(Settings):
    inner: Inner = Inner()


class Outer(Settings):
    inner: Inner = Inner()
    deeper: Deeper = Deeper()
    more: Annotated[int, Field(gt=2)] = 3
    less: Annotated[int, Field(lt=2)] = 1
    least: Annotated[int, Field(ge=2)] = 3
    most: Annotated[int, Field(le=2)] = 1
    open_: Annotated[float, Field(gt=0, lt=1)] = 0.5
    choice: Literal["a", "b"] = "a"
    maybe: Annotated[int, Field(ge=1)] | None = None
    some: tuple[Literal["x", "y"], ...] = ("x",)
    trigger: Annotated[TriggerDesign, BeforeValidator(TRIGGERS.parse)] = TRIGGERS.parse("box")

    @model_validator(mode="after")
    def _not_both(self) -> Outer:
        if self.least == 5 and self.more == 5:
            raise ValueError("least and more are both 5; change one.")
        return self


class Needy(Settings):
    path: Annotated[str, Field(json_schema_extra={"hint": "Give the folder."})]
    plain: int


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"inner": {"share": 10}}, "inner.share is 10; it must lie in [0, 1]. Write 0.10 for ten percent."),
    ({"inner": {"share": -1}}, "inner.share is -1; it must lie in [0, 1]. Write 0.10 for ten percent."),
    (
        {"deeper": {"inner": {"share": 2}}},
        "deeper.inner.share is 2; it must lie in [0, 1]. Write 0.10 for ten percent.",
    ),
    ({"more": 2}, "more is 2; it must be more than 2."),
    ({"less": 2}, "less is 2; it must be less than 2."),
    ({"least": 1}, "least is 1; it must be at least 2."),
    ({"most": 3}, "most is 3; it must be at most 2."),
    ({"open_": 1}, "open_ is 1; it must lie in (0, 1)."),
    ({"choice": "c"}, "choice is 'c'; it must be 'a' or 'b'."),
    ({"maybe": 0}, "maybe is 0; it must be at least 1."),
    ({"most": "many"}, "most is 'many'; it must be a valid integer, unable to parse string as an integer."),
    ({"most": 1.5}, "most is 1.5; it must be a valid integer, got a number with a fractional part."),
    ({"open_": float("nan")}, "open_ is nan; it must be a finite number."),
    ({"some": ["x", "z"]}, "some.1 is 'z'; it must be 'x' or 'y'."),
    ({"lesss": 1}, "lesss is not a known key. Did you mean 'less'? Known keys: "),
    ({"inner": {"shar": 1}}, "inner.shar is not a known key. Did you mean 'share'? Known keys: needed, share."),
    ({"inner": 3}, "inner is 3; it must be a table."),
    ({"trigger": "bocks"}, "trigger.name 'bocks' is not a known trigger. Did you mean 'box'? Known: box, "),
    ({"trigger": {"name": "box", "side_px": 0}}, "trigger.side_px is 0; it must be at least 1."),
    ({"trigger": {"name": "box", "sde_px": 3}}, "trigger.sde_px is not a known key. Did you mean 'side_px'? "),
    (
        {"trigger": 3},
        'trigger.name is missing from 3; a trigger is a name or a table with a name, for example name = "box".',
    ),
    ({"least": 5, "more": 5}, "least and more are both 5; change one."),
]


@pytest.mark.parametrize(("values", "message"), MISTAKES, ids=[m for _, m in MISTAKES])
def test_a_mistake_is_one_line_with_the_full_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Outer(**values)
    text = str(caught.value)
    assert text.startswith(message)
    assert "\n" not in text


def test_a_missing_key_is_named_with_its_hint() -> None:
    with pytest.raises(RecipeError, match=r"^path is missing. Give the folder.$"):
        Needy(plain=1)
    with pytest.raises(RecipeError, match=r"^plain is missing.$"):
        Needy(path="x")


def test_settings_are_frozen_values() -> None:
    settings = Inner(share=0.25)
    assert settings == Inner(share=0.25)
    assert settings != Inner()
    with pytest.raises(ValueError, match="frozen"):
        settings.share = 0.5  # type: ignore[misc]


TRAINING_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"train_batch_size": 0}, "train_batch_size is 0; it must be at least 1."),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0; it must be at least 1."),
    ({"num_epochs": 0}, "num_epochs is 0; it must be at least 1."),
    ({"max_train_steps": 0}, "max_train_steps is 0; it must be at least 1."),
    ({"learning_rate": 0}, "learning_rate is 0; it must lie in (0, 1]."),
    ({"learning_rate": float("inf")}, "learning_rate is inf; it must "),
    ({"lr_scheduler": "linear"}, "lr_scheduler is 'linear'; it must be 'cosine' or 'constant'."),
    ({"lr_warmup_steps": -1}, "lr_warmup_steps is -1; it must be at least 0."),
    ({"max_grad_norm": 0}, "max_grad_norm is 0; it must be more than 0."),
    ({"ema_decay": 1}, "ema_decay is 1; it must lie in [0, 1)."),
    ({"mixed_precision": "fp16"}, "mixed_precision is 'fp16'; it must be 'auto', 'no' or 'bf16'."),
    ({"use_ema": "perhaps"}, "use_ema is 'perhaps'; it must be a valid boolean, unable to interpret input."),
    ({"checkpointing_steps": 0}, "checkpointing_steps is 0; it must be at least 1."),
    ({"logging_steps": 0}, "logging_steps is 0; it must be at least 1."),
    ({"snapshot_steps": [0, 1]}, "snapshot_steps.0 is 0; it must be at least 1."),
    (
        {"snapshot_steps": [5, 2, 5]},
        "snapshot_steps is [5, 2, 5]; write the steps in ascending order, none of them twice: [2, 5].",
    ),
    ({"snapshot_steps": [3, 3]}, "snapshot_steps is [3, 3]; write the steps in ascending order, none of them twice: "),
    ({"batch_size": 3}, "batch_size is not a known key. Did you mean 'train_batch_size'? Known keys: "),
]


@pytest.mark.parametrize(("values", "message"), TRAINING_MISTAKES, ids=[m for _, m in TRAINING_MISTAKES])
def test_training_settings_say_what_they_allow(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        TrainingSettings(**values)
    assert str(caught.value).startswith(message)


def test_what_a_training_does_not_keep_is_not_named() -> None:
    assert "snapshot_steps" not in TrainingSettings().model_dump(mode="json")
    kept = TrainingSettings(snapshot_steps=(10, 20))
    assert kept.model_dump(mode="json")["snapshot_steps"] == [10, 20]
    assert TrainingSettings(**kept.model_dump(mode="json")) == kept
    assert "snapshot_steps" not in kept.model_dump(exclude={"snapshot_steps"})


def test_the_images_of_some_steps_count_the_short_batches() -> None:
    settings = TrainingSettings(train_batch_size=8)
    assert [settings.images_after(step, 20) for step in range(7)] == [0, 8, 16, 20, 28, 36, 40]
