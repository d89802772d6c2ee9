"""A look that costs Label Studio next to nothing, before the careful one, which has every answer exported.

The server's counters also count answers that are no judgements, so they never say that an epoch is complete. But with
fewer answers than its groups need it is not.
"""

from dataclasses import dataclass
from datetime import datetime

from tasks.context import EpochContext
from tasks.labels.connection import connect
from tasks.labels.push import push_plan, pushed
from tasks.labels.repeats import judgements_wanted
from tasks.labels.voided import voided

__all__ = ["Answers", "too_few_answers"]

CAREFUL_UP_TO = 2000
"""Groups: so many, whose answers are exported in a few seconds, are always looked at carefully. 30,000 take 30."""
CAREFUL_EVERY = 10
"""Minutes by the clock: a gate that looks each minute, as ``prefect.yaml`` has it, has nothing to remember. The careful
look shows who judged how many, and finds what a number does not tell: a task that was deleted in Label Studio, say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Judgements and skips, as Label Studio counts them."""

    given: int
    """Of whatever kind, by whomever."""
    needed: int
    """With fewer the epoch cannot be complete."""


def too_few_answers(context: EpochContext, now: datetime) -> Answers | None:
    """What is there, where a large epoch cannot be complete yet; None where a careful look is due, or can tell more.

    Raises:
        LabelStudioError: It does not answer, or people see another screen than was pushed.
    """
    careful = now.minute % CAREFUL_EVERY == 0 or len(context.groups()) <= CAREFUL_UP_TO
    if careful or context.epoch.notes("proceed"):
        return None
    client, project = connect(), pushed(context)["project"]
    client.check_screen(project, push_plan(context).screen)
    answers = Answers(given=client.answers(project), needed=_fewest(context))
    return answers if answers.given < answers.needed else None


def _fewest(context: EpochContext) -> int:
    """Enough judgements settle a group, enough skips set it aside: the fewer of the two, over all groups that count."""
    lost, skips = voided(context), context.configuration.labels.max_skips
    return sum(min(wanted, skips) for group, wanted in judgements_wanted(context).items() if group not in lost)
