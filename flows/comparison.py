"""``d3po compare``: runs (forks of one another, say) side by side, by what was measured on the held-out prompts."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from storage.epoch import Epoch
from storage.run import Run
from tasks.context import found_run
from tasks.errors import UserError
from tasks.evaluation.comparisons import Comparison, paired
from tasks.training.training_plan import training_plan

__all__ = ["COLUMNS", "ComparedRun", "compared", "draw"]

COLUMNS = ("run", "epochs", "trained with", "judgements", "objective", "before", "after", "difference")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """A run's sealed epochs and one objective: what they gained together."""

    run: str
    first: int
    """The epoch that is compared from: its "before" is the start of all."""
    last: int
    trained_with: str
    """The last epoch's objective, and those fields that differ between the runs."""
    judgements: int
    """Of these epochs."""
    measured: Comparison

    @property
    def epochs(self) -> str:
        """``2``, or ``0–4``."""
        return str(self.last) if self.first == self.last else f"{self.first}–{self.last}"

    @property
    def row(self) -> tuple[str, ...]:
        """As ``COLUMNS`` has it."""
        found = self.measured
        return (
            self.run,
            self.epochs,
            self.trained_with,
            str(self.judgements),
            found.objective,
            f"{found.before:.4f}",
            f"{found.after:.4f}",
            f"{found.difference:+.4f} ± {found.standard_error:.4f}",
        )


def compared(folders: Sequence[str]) -> list[ComparedRun]:
    """Each run's held-out objectives, in the order asked; from the first epoch on that all of them have measured alike.

    Raises:
        UserError: A run has no sealed epoch, its report measured nothing, or other prompts; no epoch is common to all.
    """
    found = [_measured(folder) for folder in dict.fromkeys(folders)]
    differing = {path for path in found[0].fields if len({str(one.fields.get(path)) for one in found}) > 1}
    for one in found[1:]:
        if one.last_report["prompts"] != found[0].last_report["prompts"]:
            raise UserError(
                f"{one.folder} was measured on other held-out prompts than {found[0].folder}",
                remedy=f"d3po evaluate {found[0].folder} --adapter A={one.folder}:{one.last} …, which measures both on the same",
            )
    # A fork has its epochs from the forked one on, and is compared with what its parent did from there.
    common = set.intersection(*(set(one.alike) for one in found))
    if not common:
        epochs = ", ".join(f"{one.folder}: {', '.join(map(str, one.alike))}" for one in found)
        raise UserError(
            f"the runs have no epoch in common to compare from; measured as each run's last epoch is: {epochs}",
            remedy=f"d3po evaluate {found[0].folder} --adapter A={found[-1].folder}:{found[-1].last} …, which needs no common start",
        )
    return [compare for one in found for compare in _compared(one, min(common), differing)]


def draw(runs: Sequence[ComparedRun]) -> dict[str, bytes]:
    """The differences with 95 % intervals: an SVG for each objective, by its name."""
    from tasks.reports.plots import differences

    names = {one.run: one.run.rstrip("/").rpartition("/")[2] for one in runs}
    if len(set(names.values())) < len(names):  # runs of one name in several roots
        names = {run: run.rstrip("/") for run in names}
    rows: dict[str, dict[str, tuple[float, float, float]]] = {}
    for one in runs:
        found = one.measured
        spread = 1.96 * found.standard_error
        label = f"{names[one.run]}, epochs {one.epochs}: {one.trained_with}"
        rows.setdefault(found.objective, {})[label] = (
            found.difference,
            found.difference - spread,
            found.difference + spread,
        )
    return {
        objective: differences(bars, objective.replace("_", " "), "change on held-out prompts; 95 % interval")
        for objective, bars in rows.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What a run's sealed epochs have in their reports."""

    folder: str
    run: Run
    reports: dict[int, dict[str, Any]]
    """By epoch."""
    fields: dict[str, Any]
    """What the last one was trained with, and the run's seed."""

    @property
    def last(self) -> int:
        return max(self.reports)

    @property
    def last_report(self) -> dict[str, Any]:
        return self.reports[self.last]

    @property
    def alike(self) -> list[int]:
        """The epochs that were measured as the last one was: prompts, and what its objectives mean."""
        last, names = self.last_report, [item["objective"] for item in self.last_report["comparisons"]]
        return [
            number
            for number, one in self.reports.items()
            if one["comparisons"]
            and one["prompts"] == last["prompts"]
            and all(name in one["before"] for name in names)
            and all(_meaning(one, name) == _meaning(last, name) for name in names)
        ]


def _measured(folder: str) -> _Measured:
    configuration, run = found_run(folder)
    sealed = run.sealed_epochs()
    if not sealed:
        raise UserError(f"{folder} has no sealed epoch to compare", remedy=f"d3po status {folder}")
    reports = {
        number: json.loads(run.epoch(number).read_aside("report/evaluation.json") or b'{"comparisons": []}')
        for number in sealed
    }
    if not reports[sealed[-1]]["comparisons"]:
        raise UserError(
            f"epoch {sealed[-1]} of {folder} was not measured on held-out prompts",
            remedy=f"d3po report {folder} --evaluation.prompts FILE --evaluation.objectives NAME measures it; people "
            "compare two adapters by d3po evaluate, then d3po ab start",
        )
    epoch = run.epoch(sealed[-1])
    fields = training_plan(epoch, epoch.latest("train-plan"))["frozen"] | {"run seed": configuration.seed}
    return _Measured(folder=folder, run=run, reports=reports, fields=fields)


def _meaning(report: dict[str, Any], objective: str) -> Any:
    """Its definition, where the report has it; else its unit."""
    unit = next((item.get("unit") for item in report["comparisons"] if item["objective"] == objective), None)
    return report.get("objectives", {}).get(objective, unit)


def _compared(one: _Measured, first: int, differing: set[str]) -> Iterator[ComparedRun]:
    before, after = one.reports[first]["before"], one.last_report["after"]
    for item in one.last_report["comparisons"]:
        name = item["objective"]
        yield ComparedRun(
            run=one.folder,
            first=first,
            last=one.last,
            trained_with=", ".join(_shown(one.fields, differing)),
            judgements=sum(_judgements(one.run.epoch(number)) for number in one.reports if number >= first),
            measured=paired(name, Comparison(**item).unit, before[name], after[name]),
        )


def _judgements(epoch: Epoch) -> int:
    return epoch.latest("pull").details.get("judgements", 0)


def _shown(fields: dict, differing: set[str]) -> Iterator[str]:
    yield str(fields["objective.kind"])
    for path, value in fields.items():
        section, _, name = path.partition(".")
        if path != "objective.kind" and value is not None and (section == "objective" or path in differing):
            yield f"{name or path} {value}"
