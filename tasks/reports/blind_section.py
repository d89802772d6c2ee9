"""What people said, blind, of a run's epochs: the blind comparisons of all evaluations beside the run that show one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from storage.errors import StorageError
from storage.evaluation import Evaluation, evaluations_below
from storage.run import Run
from tasks.evaluation.estimates import ends, said_share
from tasks.evaluation.evaluation_page import blind_results, results_of
from tasks.log import logger
from tasks.reports import page
from tasks.reports.plots import bars

__all__ = ["BlindResult", "blind_results_of", "blind_section"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindResult:
    """One of a run's epochs in a blind comparison."""

    evaluation: Evaluation
    epoch: int
    against: str
    """The other candidate: its name in the evaluation, and where it is the same run's, its epoch."""
    eta: float
    found: dict[str, Any]
    """All of the comparison's results."""
    own: dict[str, Any]
    """Those of this epoch."""


def blind_results_of(run: Run) -> Iterator[BlindResult]:
    """The blind comparisons that show an epoch of this run, by evaluation and number; unreadable ones are left out."""
    for evaluation in evaluations_below(run.root):
        try:
            yield from list(_of_evaluation(evaluation, run))
        except StorageError as error:  # a report does not fail of what lies beside its run
            logger().warning("left out of the run's report: %s", error)


def blind_section(run: Run) -> str:
    """A section of the run's report; empty where nobody compared anything of it, or no result was looked at yet."""
    results = list(blind_results_of(run))
    if not results:
        return ""
    rates = {
        f"{_named(result)}\n{result.evaluation.name}/{result.found['number']}": ends(result.own["win_rate"])
        for result in results
    }
    header = ("comparison", "wins", "losses", "ties", "both bad", "win rate [95 %]", "judged", "people", "page")
    rows = [
        (
            _named(result),
            *(str(result.own[kind]) for kind in ("wins", "losses", "ties", "both_bad")),
            said_share(result.own["win_rate"]),
            f"{result.found['judged']} of {result.found['comparisons']}",
            str(result.found["people"]),
            f"evaluations/{result.evaluation.name}/evaluation.html",
        )
        for result in results
    ]
    kinds = sorted({result.found["intervals"]["win_rate"] for result in results if "intervals" in result.found})
    return page.section(
        "Did people prefer it?",
        page.figure(bars(rates, "win rate", "of all judged comparisons"), "Win rates in blind comparisons."),
        page.table(header, rows, range(1, 8)),
        note="Blind comparisons on held-out prompts, the same noise for both: of what people judged when d3po ab results "
        f"was last asked. Intervals: 95 %{''.join(f', {kind}' for kind in kinds)}.",
    )


def _of_evaluation(evaluation: Evaluation, run: Run) -> Iterator[BlindResult]:
    # Exported adapters say whose they are, too; evaluations of earlier versions say of none.
    epochs = {
        one["name"]: one["epoch"]
        for one in results_of(evaluation).get("candidates", [])
        if one.get("run_id") == run.run_id
    }
    for found in blind_results(evaluation) if epochs else ():
        plan = evaluation.blind_plan(found["number"]) or {}
        for name, other in (found["between"], found["between"][::-1]):
            if name in epochs:
                yield BlindResult(
                    evaluation=evaluation,
                    epoch=epochs[name],
                    against=f"{other} (epoch {epochs[other]})" if other in epochs else other,
                    eta=plan["eta"],
                    found=found,
                    own=found["candidates"][name],
                )


def _named(result: BlindResult) -> str:
    return f"epoch {result.epoch} against {result.against}, η = {result.eta:g}"
