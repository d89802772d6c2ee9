"""A look that costs Label Studio next to nothing, before the careful one, which has every answer exported.

The server's counters also count answers that are no judgements, so they never say that an epoch is complete. But with
fewer answers than its groups need it is not.
"""

from dataclasses import dataclass

from tasks.context import EpochContext
from tasks.labels.connection import connect
from tasks.labels.push import push_plan, pushed
from tasks.labels.repeats import judgements_wanted
from tasks.labels.voided import voided

__all__ = ["Answers", "too_few_answers"]

CAREFUL_UP_TO = 2000
"""Groups whose answers are exported in three seconds; fewer are always looked at carefully. 30,000 take 40."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Judgements and skips, as Label Studio counts them."""

    given: int
    """Of whatever kind, by whomever."""
    needed: int
    """With fewer the epoch cannot be complete."""


def too_few_answers(context: EpochContext) -> Answers | None:
    """What is there, where a large epoch cannot be complete yet; None where only the careful look can tell.

    Raises:
        LabelStudioError: It does not answer, or people see another screen than was pushed.
    """
    if len(context.groups()) <= CAREFUL_UP_TO or context.epoch.notes("proceed"):
        return None
    client, project = connect(), pushed(context)["project"]
    client.check_screen(project, push_plan(context).screen)
    answers = Answers(given=client.answers(project), needed=_fewest(context))
    return answers if answers.given < answers.needed else None


def _fewest(context: EpochContext) -> int:
    """Enough judgements settle a group, enough skips set it aside: the fewer of the two, over all groups that count."""
    lost, skips = voided(context), context.configuration.labels.max_skips
    return sum(min(wanted, skips) for group, wanted in judgements_wanted(context).items() if group not in lost)
