"""Clean siblings take back what they show too, and their share is the p-value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from analytic import Analytic
from scan_reports import SMALL as SHORT
from scan_reports import poisoned
from torch import Tensor

from baddiffusion.checkpoint import Checkpoint, SealedCheckpoint
from baddiffusion.models import build, unet_config
from baddiffusion.pipeline import FRESH_SCHEDULER
from baddiffusion.scanner.confirming import Confirmation
from baddiffusion.scanner.dynamic import DynamicScan, examine_subject
from baddiffusion.scanner.findings import NotExamined
from baddiffusion.scanner.siblings import Sibling, SiblingEvidence, opened, replay, suspicion
from baddiffusion.scanner.verdict import judge, shortfall

SMALL = SHORT.model_copy(update={"own": 32, "confirmations": 16})
SCHEDULER = {**FRESH_SCHEDULER, "num_train_timesteps": 100}


def sibling(name: str, is_clean: bool = True) -> Sibling:
    return Sibling(name, name, Analytic if is_clean else poisoned)


def scan(*siblings: Sibling, suspect: Analytic | None = None) -> DynamicScan:
    beside = (siblings, [NotExamined("other", "it paints larger pictures")])
    return examine_subject(suspect or poisoned(), 0, 30_000, SMALL, siblings=beside)


@pytest.fixture(scope="module")
def alone() -> DynamicScan:
    return examine_subject(poisoned(), 0, 30_000, SMALL)


def test_clean_siblings_let_a_backdoor_stand_and_give_its_p_value(alone: DynamicScan) -> None:
    found = scan(sibling("a"), sibling("b"), sibling("c"))
    assert (alone.verdict.outcome, found.verdict.outcome) == ("backdoored", "backdoored")
    beside = found.siblings
    assert beside is not None
    assert beside.p_value == beside.smallest == 1 / 4
    assert [one.name for one, _ in beside.used] == ["a", "b", "c"]
    assert [missing.what for missing in beside.not_used] == ["other"]
    assert beside.network_calls > 3 * 1000
    assert found.spent.network_calls == alone.spent.network_calls  # the siblings' calls stand apart
    assert alone.siblings is None


def test_siblings_that_collapse_from_the_same_starts_veto_an_alarm(alone: DynamicScan) -> None:
    # To the scanner a sibling with the same behavior says: that is how models of this kind are.
    found = scan(sibling("a", False), sibling("b", False), sibling("c"))
    assert found.verdict.outcome == "no evidence", found.verdict.reasons
    vetoed = found.confirmations[0]
    hit = int(vetoed.shifted.hits.sum())
    assert vetoed.siblings[:2] == (hit, hit)
    assert vetoed.siblings[2] < hit / 2
    assert vetoed.spread == 1  # the upper median
    assert shortfall(vetoed, vetoed.p_value, SMALL) == "shared"
    assert shortfall(vetoed.without_siblings(), vetoed.p_value, SMALL) is None
    assert found.siblings is not None
    assert found.siblings.p_value == 3 / 4


def test_a_search_goes_on_after_a_veto_but_is_compared_as_if_it_had_not(alone: DynamicScan) -> None:
    found = scan(sibling("a", False))
    assert found.spent.network_calls > alone.spent.network_calls
    assert found.siblings is not None
    assert found.siblings.suspect == suspicion(alone.confirmations, alone.maps, alone.own, alone.settings)


def test_one_odd_sibling_of_three_decides_nothing(alone: DynamicScan) -> None:
    check = replace(alone.confirmations[0], siblings=(2, 16, 3))
    assert (check.alike, check.spread) == (3, int(check.shifted.hits.sum()) - 2)
    assert judge([check], (), SMALL).outcome == "backdoored"
    assert "the median of 3 clean siblings turns 3 into one picture" in judge([check], (), SMALL).reasons[0]
    assert judge([replace(check, siblings=(16, 16, 1))], (), SMALL).outcome == "no evidence"


def test_a_replay_uses_the_very_starts(alone: DynamicScan) -> None:
    check: Confirmation = alone.confirmations[0]
    counts, calls = replay([sibling("a", False), sibling("b")], check, SMALL)
    assert counts[0] == int(check.shifted.hits.sum()) > counts[1] >= 1
    assert calls == 2 * len(check.seeds) * SMALL.steps("ancestral")


class Saturating(Analytic):
    """Ends in black, whatever it starts from."""

    def _answer(self, x_t: Tensor, t: Tensor) -> Tensor:
        signal, noise = (float(v[int(t[0])]) for v in (self.table.signal, self.table.noise))
        return (x_t + signal) / noise


def test_a_sibling_that_ends_in_an_even_color_explains_no_picture(alone: DynamicScan) -> None:
    counts, _ = replay([Sibling("black", "black", Saturating)], alone.confirmations[0], SMALL)
    assert counts == (0,)
    check = replace(alone.confirmations[0], siblings=counts)
    assert check.spread == int(check.shifted.hits.sum())


def test_no_answer_is_compared_with_nobody() -> None:
    found = examine_subject(Analytic(), 0, 10, SMALL, siblings=((sibling("a"),), ()))
    assert found.verdict.outcome == "inconclusive"
    assert found.siblings is not None
    assert (found.siblings.p_value, found.siblings.smallest, found.siblings.network_calls) == (None, None, 0)
    assert "gave no answer" in found.siblings.not_used[0].why


def test_a_p_value_counts_ties_against_the_suspect() -> None:
    used = tuple((sibling(str(n)), (0, 0.1 * n, 0.0)) for n in range(4))
    assert SiblingEvidence(used, (), (0, 0.2, 0.0), 0).p_value == pytest.approx(3 / 5)
    assert SiblingEvidence(used, (), (1, 0.0, 0.0), 0).p_value == pytest.approx(1 / 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("siblings")
    for name, size, seed, steps in (
        ("suspect", 8, 0, 100),
        ("alike", 8, 1, 100),
        ("large", 16, 1, 100),
        ("short", 8, 2, 50),
    ):
        config = unet_config("micro", (1, size, size))
        Checkpoint.write(root / name, build(config, seed=seed), {**SCHEDULER, "num_train_timesteps": steps})
    predicts = {**SCHEDULER, "prediction_type": "v_prediction"}
    Checkpoint.write(root / "velocity", build(unet_config("micro", (1, 8, 8)), seed=3), predicts)
    Checkpoint.write(root / "twice", build(unet_config("micro", (1, 8, 8)), seed=1), SCHEDULER)
    return root


def test_what_is_no_sibling_is_listed_with_its_reason(folder: Path) -> None:
    suspect: SealedCheckpoint = Checkpoint.open(folder / "suspect").sealed()
    names = ("alike", "suspect", "twice", "large", "short", "velocity", "nowhere")
    siblings, missing = opened([folder / name for name in names], suspect, "cpu")
    assert [one.name for one in siblings] == ["alike"]
    assert siblings[0].load().shape == (1, 8, 8)
    reasons = {one.what: one.why for one in missing}
    assert list(reasons) == list(names[1:])
    assert reasons["suspect"] == "it is the scanned model itself, which is no standard for itself"
    assert reasons["twice"] == "it has the weights of alike, which counts once"
    assert reasons["large"].startswith("it paints pictures of 1×16×16, the scanned model of 1×8×8")
    assert reasons["short"].startswith("its noise schedule is another")
    assert reasons["velocity"] == "it predicts v_prediction, the scanned model epsilon"
    assert "nowhere" in reasons["nowhere"]
