"""``d3po report``: where a sealed epoch's results lie, and what was measured."""

import json
from collections.abc import Iterator

from tasks.context import EpochContext
from tasks.evaluation.comparisons import Comparison
from tasks.labels.push import pushed
from tasks.reports.run_report import write_run_report

__all__ = ["describe"]


def describe(context: EpochContext, anew: bool = False) -> Iterator[str]:
    """Lines for the terminal; a report that is missing, or that is wanted ``anew``, is made first."""
    wanted = "evaluation.json" if context.configuration.evaluation.prompts else "report.html"
    if anew or context.epoch.read_aside(f"report/{wanted}") is None:
        from tasks.reports.report import report  # needs the network: only where something is measured

        report.fn(context)
    epoch, location = context.epoch, f"{context.run.location}/{context.epoch_key}"
    yield f"adapter:      {location}/adapter"
    yield f"before/after: {location}/report/before-after.png"
    yield f"report:       {location}/report/report.html"
    yield f"whole run:    {write_run_report(context)}"
    if epoch.latest("push") is not None:
        yield f"Label Studio: {pushed(context)['url']}"
    yield f"seal:         {epoch.seal()['digest']}"
    evaluation = json.loads(epoch.read_aside("report/evaluation.json") or b'{"comparisons": []}')
    for item in evaluation["comparisons"]:
        yield f"measured:     {Comparison(**item)}"
