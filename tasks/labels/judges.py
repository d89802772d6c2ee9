"""How well an epoch's judges agree: while people judge from Label Studio, after the pull from what it froze.

The table of a finished epoch lies in its training attempt, beside the pairs: how votes become labels is the training's
choice, and what it believed of whom belongs to it. It follows from the judgements, so it can be made again at any time.
"""

from dataclasses import fields
from typing import Any

from d3po_core.agreement import Agreement, JudgeQuality, agreement_of
from tasks.context import EpochContext
from tasks.label_studio.parse import parse_export
from tasks.labels.connection import connect
from tasks.labels.pull import counted_judgements, gold_answers
from tasks.labels.push import push_plan, pushed

__all__ = ["JUDGES_FILE", "agreement_now", "agreement_of_epoch", "doubts", "judge_rows", "shown_rows"]

JUDGES_FILE = "judges.parquet"


def agreement_of_epoch(context: EpochContext) -> Agreement:
    """What the judgements that were pulled say of their judges; without the others' the same each time."""
    good = {}
    if gold := gold_answers(context):
        good = {name: known.good for name, known in push_plan(context).gold.items()}
    return agreement_of(counted_judgements(context), gold, good)


def agreement_now(context: EpochContext) -> Agreement:
    """The same from the pull where there is one, else from what Label Studio has at this moment."""
    if context.epoch.latest("pull") is not None:
        return agreement_of_epoch(context)
    plan, push = push_plan(context), pushed(context)
    parsed = parse_export(connect().annotations(push["project"]), plan, push["ls_tasks"])
    return agreement_of(parsed.judgements, parsed.gold, {name: known.good for name, known in plan.gold.items()})


def judge_rows(agreement: Agreement) -> list[dict[str, Any]]:
    """The rows of ``judges.parquet``."""
    return [{field.name: getattr(one, field.name) for field in fields(JudgeQuality)} for one in agreement.judges]


def shown_rows(agreement: Agreement) -> list[dict[str, str]]:
    """The table as people read it: in a terminal, a report, an artifact."""
    return [
        {
            "judge": one.judge,
            "groups": str(one.groups),
            "seconds": "–" if one.seconds_median is None else f"{one.seconds_median:.1f}",
            "as the others": _share(one.agreement, one.compared),
            "reliability": "–" if one.reliability is None else f"{one.reliability:.2f}",
            "known answers": _share(one.gold_accuracy, one.gold_answers),
        }
        for one in agreement.judges
    ]


def doubts(agreement: Agreement, floor: float) -> list[str]:
    """Who told too few of the known answers, a sentence each; nobody's judgements are left out for it."""
    return [
        f"{one.judge} told {one.gold_accuracy:.0%} of {one.gold_answers} known answers rightly, below labels.gold_floor "
        f"{floor:.0%}; their judgements count all the same"
        for one in agreement.judges
        if one.gold_accuracy is not None and one.gold_accuracy < floor
    ]


def _share(value: float | None, of: int) -> str:
    return "–" if value is None else f"{value:.0%} of {of}"
