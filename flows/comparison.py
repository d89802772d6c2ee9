"""``d3po compare``: runs (forks of one another, say) side by side, by what was measured on the held-out prompts."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.context import found_run, planned_context
from tasks.errors import UserError
from tasks.evaluation.held_out import Comparison
from tasks.training.training_plan import training_plan

__all__ = ["COLUMNS", "ComparedRun", "compared", "draw"]

COLUMNS = ("run", "epoch", "trained with", "judgements", "objective", "before", "after", "difference")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """A run's last sealed epoch and one objective of it."""

    run: str
    epoch: int
    trained_with: str
    """The objective's fields and those of the training that differ between the runs."""
    judgements: int
    measured: Comparison

    @property
    def row(self) -> tuple[str, ...]:
        """As ``COLUMNS`` has it."""
        found = self.measured
        return (
            self.run,
            str(self.epoch),
            self.trained_with,
            str(self.judgements),
            found.objective,
            f"{found.before:.4f}",
            f"{found.after:.4f}",
            f"{found.difference:+.4f} ± {found.standard_error:.4f}",
        )


def compared(folders: Sequence[str]) -> list[ComparedRun]:
    """Each run's held-out objectives, in the order asked.

    Raises:
        UserError: A run has no sealed epoch, or its report measured nothing.
    """
    found = [_last_sealed(folder) for folder in dict.fromkeys(folders)]
    differing = {path for path in found[0][2] if len({str(fields.get(path)) for _, _, fields, _, _ in found}) > 1}
    for folder, epoch, _, _, report in found:
        if report["prompts"] != found[0][4]["prompts"]:
            raise UserError(
                f"epoch {epoch} of {folder} was measured on other held-out prompts than {found[0][0]}",
                remedy=f"d3po evaluate {found[0][0]} --adapter A={folder}:{epoch} …, which measures both on the same",
            )
    return [
        ComparedRun(
            run=folder,
            epoch=epoch,
            trained_with=", ".join(_shown(fields, differing)),
            judgements=judgements,
            measured=Comparison(**comparison),
        )
        for folder, epoch, fields, judgements, report in found
        for comparison in report["comparisons"]
    ]


def draw(runs: Sequence[ComparedRun]) -> dict[str, bytes]:
    """The differences with 95 % intervals: an SVG for each objective, by its name."""
    from tasks.reports.plots import differences

    rows: dict[str, dict[str, tuple[float, float, float]]] = {}
    for one in runs:
        found = one.measured
        spread = 1.96 * found.standard_error
        label = f"{one.run.rstrip('/')}: {one.trained_with}"
        rows.setdefault(found.objective, {})[label] = (
            found.difference,
            found.difference - spread,
            found.difference + spread,
        )
    return {
        objective: differences(bars, objective.replace("_", " "), "after − before on held-out prompts; 95 % interval")
        for objective, bars in rows.items()
    }


def _last_sealed(folder: str) -> tuple[str, int, dict, int, dict]:
    configuration, run = found_run(folder)
    sealed = run.sealed_epochs()
    if not sealed:
        raise UserError(f"{folder} has no sealed epoch to compare", remedy=f"d3po status {folder}")
    context = planned_context(configuration, run, sealed[-1])
    epoch = context.epoch
    report = json.loads(epoch.read_aside("report/evaluation.json") or b'{"comparisons": []}')
    if not report["comparisons"]:
        raise UserError(
            f"epoch {sealed[-1]} of {folder} was not measured on held-out prompts",
            remedy=f"d3po report {folder} --evaluation.prompts FILE",
        )
    fields = training_plan(epoch, epoch.latest("train-plan"))["frozen"]
    judgements = epoch.latest("pull").details.get("judgements", 0)
    return folder, sealed[-1], fields, judgements, report


def _shown(fields: dict, differing: set[str]) -> Iterator[str]:
    yield str(fields["objective.kind"])
    for path, value in fields.items():
        section, _, name = path.partition(".")
        if path != "objective.kind" and value is not None and (section == "objective" or path in differing):
            yield f"{name} {value}"
