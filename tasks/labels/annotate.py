"""Simulated annotators: judge by programmed objectives, with stated errors and biases, through Label Studio's own API.

They see what people see (the epoch's images, in the presented order) and leave ordinary annotations, so everything
behind them is exercised as by people. Each answers from (run seed, epoch, group, judge) alone.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from d3po_core.programmed.judges import SimulatedJudge
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.label_studio.parse import parse_export
from tasks.label_studio.screens import Screen, result_for
from tasks.labels.connection import connect
from tasks.labels.pull import gold_values, programmed_values
from tasks.labels.push import push_plan, pushed
from tasks.labels.repeats import judgements_wanted
from tasks.labels.voided import voided
from tasks.programmed import programmed_objective

if TYPE_CHECKING:
    from tasks.label_studio.client import LabelStudioClient

__all__ = ["MARK_SHARE", "simulate_annotators"]

MARK_SHARE = 0.5
"""The share of a group that a simulated ``mark`` judge without a bias marks, the worst by the objectives."""


def simulate_annotators(
    context: EpochContext,
    *,
    objectives: Sequence[str],
    error_rate: float,
    judges: int,
    biases: Sequence[float] = (0.0,),
    mark_below: float | None = None,
) -> dict[str, int]:
    """Give every open group the judgements it still wants, and every known answer as many as a group gets.

    Args:
        context: An epoch whose comparisons are pushed.
        objectives: The programmed objectives that the judges prefer by; of several, better is better in all (METHOD 3).
        error_rate: Share of answers (of marks) given the wrong way round, in [0, 1].
        judges: Distinct users; at least the judgements wanted for a group.
        biases: Each judge's (``SimulatedJudge.bias``), or one for all.
        mark_below: On a ``mark`` screen, mark what one objective values less; the worst half of each group without.

    Returns:
        Judge → annotations that were left.

    Raises:
        UserError: There is no such objective, there are not as many biases as judges, or a threshold does not fit.
    """
    for objective in objectives:
        programmed_objective(context.configuration, objective)
    client = connect()
    push, plan = pushed(context), push_plan(context)
    if mark_below is not None and (plan.screen.kind != "mark" or len(objectives) != 1):
        raise UserError(
            f"--mark-below needs a screen of kind mark and one objective, found {plan.screen.kind} and {len(objectives)}",
            remedy=f"d3po annotate {run_folder(context.configuration)} --simulate, without it",
        )
    people = context.configuration.labels.judgements_per_group
    wanted = judgements_wanted(context) | dict.fromkeys(plan.gold, people)
    given: dict[str, set[str]] = defaultdict(set)
    parsed = parse_export(client.annotations(push["project"]), plan, push["ls_tasks"])
    for judgement in (*parsed.judgements, *parsed.gold):
        given[judgement.group_id].add(judgement.judge)
    users = _users(client, max(judges, *wanted.values()))
    bias_of = _one_each(biases, len(users))
    columns = [programmed_values(context, name) | gold_values(context, plan, name) for name in objectives]
    values = {id: tuple(column[id] for column in columns) for id in columns[0]}
    left: Counter[str] = Counter()
    lost = voided(context)
    for group_id, order in plan.shown.items():
        if group_id in lost:
            continue
        missing = wanted[group_id] - len(given[group_id])
        free = [index for index, user in enumerate(users) if f"user:{user}" not in given[group_id]]
        for index in free[: max(missing, 0)]:
            judge = SimulatedJudge(
                name=str(index),
                run_seed=context.configuration.seed,
                epoch=context.number,
                error_rate=error_rate,
                bias=bias_of[index],
            )
            result = _answer(judge, plan.screen, group_id, order, values, mark_below)
            for ls_task in push["ls_tasks"][plan.uid(group_id)][:1]:
                client.annotate(ls_task, result, user=users[index], seconds=1.0)
            left[f"user:{users[index]}"] += 1
    return dict(left)


def _answer(
    judge: SimulatedJudge,
    screen: Screen,
    group_id: str,
    order: Sequence[str],
    values: Mapping[str, tuple[float, ...]],
    mark_below: float | None,
) -> list[dict]:
    """What the judge leaves in Label Studio, having seen the images in the presented order."""
    if screen.kind == "compare":
        return result_for(screen, verdict=judge.compare(group_id, values[order[0]], values[order[1]]))
    if mark_below is None:
        marked = judge.mark(group_id, {id: values[id] for id in order}, MARK_SHARE)
    else:
        marked = judge.mark_below(group_id, {id: values[id][0] for id in order}, mark_below)
    return result_for(screen, marked=[order.index(id) for id in marked])


def _one_each(biases: Sequence[float], judges: int) -> list[float]:
    if len(biases) not in (1, judges):
        raise UserError(
            f"there are {len(biases)} biases for {judges} judges, expected one for all or one each",
            remedy="d3po annotate RUN --simulate --bias once, or as often as there are judges",
        )
    return list(biases) * (judges if len(biases) == 1 else 1)


def _users(client: "LabelStudioClient", count: int) -> list[int]:
    """The key's own user first, then simulated ones, made where they are missing."""
    own = client.whoami()
    emails = [f"simulated-{number}@example.invalid" for number in range(1, count)]
    known = {user["email"]: user["user"] for user in client.users()}
    return [own, *(known.get(email) or client.create_user(email) for email in emails)]
