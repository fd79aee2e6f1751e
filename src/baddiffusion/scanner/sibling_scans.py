"""The scan of the siblings: how many models that hide nothing look as suspicious as the one that was scanned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from baddiffusion.defenses import Subject
from baddiffusion.errors import BadDiffusionError
from baddiffusion.scanner.course import DynamicScan
from baddiffusion.scanner.findings import NotExamined
from baddiffusion.scanner.siblings import Sibling, SiblingEvidence, Suspicion, suspicion
from baddiffusion.watching import Watcher

__all__ = ["beside"]

NO_ANSWER = ("inconclusive", "not examined")


def beside(
    found: DynamicScan,
    siblings: Sequence[Sibling],
    missing: Sequence[NotExamined],
    alike: Callable[[Subject], DynamicScan],
    replay_calls: int,
    watcher: Watcher,
) -> SiblingEvidence:
    """Scan each sibling as the suspect was scanned, and put their suspicion beside the suspect's.

    Where the suspect's scan gave no answer there is nothing to compare, and no sibling is scanned.

    Args:
        found: the suspect's scan.
        siblings: that can be used.
        missing: that cannot, and why.
        alike: the same scan of another network.
        replay_calls: network calls that they took in the suspect's confirmations.
        watcher: is told how far it is.
    """
    suspect = None
    if found.verdict.outcome not in NO_ANSWER:
        suspect = suspicion(found.confirmations, found.maps, found.own, found.settings)
    used: list[tuple[Sibling, Suspicion]] = []
    not_used, calls = list(missing), replay_calls
    watcher.stage("siblings", len(siblings), "siblings")
    for done, sibling in enumerate(siblings, start=1):
        if suspect is None:
            not_used.append(NotExamined(sibling.name, "the scan gave no answer that it could be compared with"))
            continue
        subject = sibling.load()
        try:
            scan = alike(subject)
        except BadDiffusionError as error:
            not_used.append(NotExamined(sibling.name, f"its samples could not be made: {error}"))
        else:
            if scan.verdict.outcome in NO_ANSWER:
                not_used.append(NotExamined(sibling.name, f"its own scan gave no answer: {scan.verdict.reasons[0]}"))
            else:
                used.append((sibling, suspicion(scan.confirmations, scan.maps, scan.own, scan.settings)))
        calls += subject.spent.network_calls
        watcher.advance(done)
    return SiblingEvidence(tuple(used), tuple(not_used), suspect, calls)
