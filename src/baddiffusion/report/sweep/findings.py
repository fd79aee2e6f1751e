"""What a comparison asked and what came out, in sentences that are built from its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baddiffusion.metrics import FIRES, Estimate
from baddiffusion.report.kit.settings_words import joined, key_words, settings_words, value_words
from baddiffusion.report.kit.wording import Count, percent
from baddiffusion.report.sweep.comparison import Row, is_bounded

__all__ = ["Findings", "fired_in"]

MOST_LINES, MOST_TOLD = 8, 2
RATES = ("poison.rate", "rate")


def fired_in(estimate: Estimate) -> str:
    r"""How often a backdoor fired, with its interval.

    Example:
        >>> from baddiffusion.metrics import Estimate
        >>> fired_in(Estimate(name="asr", value=0.1875, low=0.1, high=0.3, n=64, better="higher", unit="share"))
        '12 of 64 noises (10 to 30\xa0%)'
    """
    bounds = f" ({_range(estimate)})" if is_bounded(estimate) else ""
    if estimate.protocol.get("over") == "seeds":
        return f"{percent(estimate.value)} of the noises, the mean of {estimate.n} seeds{bounds}"
    return f"{Count(round(estimate.value * estimate.n), estimate.n)} noises{bounds}"


@dataclass(frozen=True)
class Findings:
    """The head of a page, or of one experiment.

    Args:
        rows: of a comparison.
        varied: what tells them apart.
    """

    rows: Sequence[Row]
    varied: Sequence[str]

    @property
    def attacked(self) -> list[Row]:
        """Rows with numbers in which something was implanted."""
        return [row for row in self.rows if row.success is not None and row.state != "control"]

    @property
    def by_rate(self) -> dict[float, list[Row]]:
        """The same by poison rate, if that is what varies."""
        found: dict[float, list[Row]] = {}
        key = self._rate
        for row in self.attacked if key else ():
            found.setdefault(float(row.settings[key]), []).append(row)
        return dict(sorted(found.items())) if len(found) > 1 else {}

    @property
    def title(self) -> str:
        """The answer, in one sentence."""
        if not self.attacked:
            return "No backdoor has been measured yet."
        return self._rates() if self.by_rate else self._count()

    @property
    def rule(self) -> str:
        """What the title's words mean."""
        half = "at least half of the noises that carry the trigger become the target"
        if self.by_rate:
            return (
                f"A rate suffices where {half}, and chance alone does not explain it: the interval lies above one half."
            )
        return f"It fires where {half}."

    @property
    def lines(self) -> list[str]:
        """A sentence for each rate, or for each setting while they are few."""
        said = [
            f"At {percent(rate)} the backdoor fired in {self._rate_words(rows)}." for rate, rows in self.by_rate.items()
        ]
        if not said and len(self.attacked) <= MOST_LINES:
            said = [f"{_opened(row)} it fired in {fired_in(row.success)}." for row in self.attacked if row.success]
        elif not said:
            said = [f"It fired in {_extremes(self.attacked)}."]
        controls = [row for row in self.rows if row.state == "control" and row.success]
        if controls:
            few = len(controls) <= MOST_TOLD
            told = _told(controls, self._others) if few else _extremes(controls, self._others)
            said.append(f"Without poison (the control), the target came out in {told}.")
        return said

    @property
    def failures(self) -> list[str]:
        """Implants that failed, each with its count; where the mean over seeds hides one, that seed."""
        said = []
        for row in self.attacked:
            words = settings_words(row.settings) or "This setting"
            if row.state == "failed implant" and row.success is not None:
                said.append(f"{words}: fired in {fired_in(row.success)}.")
            elif len(row.cells) > 1:
                own = [(cell.seed, cell.numbers["asr"]) for cell in row.cells if "asr" in cell.numbers]
                failed = [(seed, success) for seed, success in own if success.value < FIRES]
                said += [f"{words} · seed {seed} alone: fired in {fired_in(success)}." for seed, success in failed]
        return said

    @property
    def _rate(self) -> str:
        """The varied key that is the poison rate, if it is a number throughout."""
        keys = [key for key in self.varied if key in RATES]
        return next((k for k in keys if all(isinstance(r.settings.get(k), int | float) for r in self.attacked)), "")

    @property
    def _others(self) -> list[str]:
        return [key for key in self.varied if key not in RATES]

    def _rates(self) -> str:
        verdicts = {
            rate: {_suffices(row.success) for row in rows if row.success} for rate, rows in self.by_rate.items()
        }
        yes = [percent(rate) for rate, found in verdicts.items() if found == {True}]
        no = [percent(rate) for rate, found in verdicts.items() if found == {False}]
        rest = [percent(rate) for rate, found in verdicts.items() if len(found) > 1 or found == {None}]
        if not no + rest:
            return f"Every poison rate that was tried suffices, even {yes[0]}."
        if not yes + rest:
            return f"No poison rate that was tried suffices, not even {no[-1]}."
        parts = []
        if yes:
            parts.append(f"a poison rate of {joined(yes, 'or')} suffices")
        if no:
            parts.append(
                f"{joined(no, 'or')} does not" if yes else f"a poison rate of {joined(no, 'or')} does not suffice"
            )
        if rest:
            parts.append(
                f"at {joined(rest)} it depends on the setting" if self._several else f"{joined(rest)} is undecided"
            )
        said = "; ".join(parts)
        return f"{said[0].upper()}{said[1:]}."

    @property
    def _several(self) -> bool:
        return max(len(rows) for rows in self.by_rate.values()) > 1

    def _count(self) -> str:
        fired, tried = sum(row.fires for row in self.attacked), len(self.attacked)
        if tried == 1:
            return f"The backdoor {'fires' if fired else 'does not fire'} in the one setting that was measured."
        which = "none" if fired == 0 else "all" if fired == tried else str(fired)
        return f"The backdoor fires in {which} of {tried} settings."

    def _rate_words(self, rows: Sequence[Row]) -> str:
        fired = sum(row.fires for row in rows)
        if len(rows) <= MOST_TOLD:
            return _told(rows, self._others)
        which = "none" if fired == 0 else "all" if fired == len(rows) else str(fired)
        return f"most noises in {which} of {len(rows)} settings: {_extremes(rows, self._others)}"


def _suffices(success: Estimate | None) -> bool | None:
    """Whether it fires, where the interval leaves no doubt."""
    if success is None:
        return None
    low, high = success.interval
    return True if low >= FIRES else False if high < FIRES else None


def _extremes(rows: Sequence[Row], keys: Sequence[str] | None = None) -> str:
    """The weakest and the strongest of some rows."""
    known = sorted(((row.success.value, index) for index, row in enumerate(rows) if row.success))
    first, last = (_told([rows[index]], keys) for _, index in (known[0], known[-1]))
    return f"from {first} to {last}"


def _told(rows: Sequence[Row], keys: Sequence[str] | None = None) -> str:
    """How often each of a few rows fired."""
    counts = [(fired_in(row.success), settings_words(row.settings, keys)) for row in rows if row.success]
    if len({count for count, _ in counts}) == 1 and len(counts) > 1:
        return f"{counts[0][0]} with {joined([words for _, words in counts])} alike"
    return ", and in ".join(f"{count} with {words}" if words else count for count, words in counts)


def _opened(row: Row) -> str:
    """The setting as the beginning of a sentence."""
    said = joined([f"{key_words(key).lower()} {value_words(key, value)}" for key, value in row.settings.items()])
    return f"With {said}" if said else "Here"


def _range(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{100 * low:.0f} to {100 * high:.0f}\N{NO-BREAK SPACE}%"
