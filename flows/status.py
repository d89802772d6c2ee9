"""Where a run stands: epochs × stages, who has judged how much, what waits for whom, and what to type next."""

import time
from dataclasses import dataclass, field

from prefect.client.schemas.objects import StateType

from flows.flow_runs import BoundFlowRun, bound_flow_runs, epoch_flow_runs
from storage.epoch import Epoch
from storage.run import Run
from tasks.config import Configuration
from tasks.context import EpochContext, planned_context, run_folder
from tasks.errors import UserError
from tasks.label_studio.errors import LabelStudioError
from tasks.labels.progress import Progress
from tasks.labels.voided import voided

__all__ = ["STAGES", "EpochStatus", "run_status", "wait_until"]

POLL_SECONDS = 2.0
"""A look asks Prefect and the store a few things, on cores that the epoch wants for itself."""

STAGES = ("plan", "generate", "push", "pull", "train", "seal")


@dataclass(kw_only=True)
class EpochStatus:
    """One epoch as an operator wants to know it."""

    number: int
    stages: dict[str, str]
    """Stage → ``done``, ``–`` or how far it is."""
    progress: Progress | None = None
    may_go_on: bool = False
    """Its judgements are complete, or somebody said to proceed."""
    voided: int = 0
    """Groups that no longer count."""
    late: int = 0
    """Judgements that came, or were changed, after they were pulled."""
    project_url: str | None = None
    flow_runs: list[BoundFlowRun] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    next_command: str = ""

    @property
    def sealed(self) -> bool:
        return self.stages["seal"] == "done"

    @property
    def waits_for_people(self) -> bool:
        return self.stages["push"] == "done" and self.stages["pull"] != "done"


def run_status(configuration: Configuration, run: Run) -> list[EpochStatus]:
    """Every epoch of the run; the last, if it is not sealed, with its people and flow runs."""
    epochs = [EpochStatus(number=number, stages=_stages(run.epoch(number))) for number in run.epochs()]
    for status in epochs:
        if not status.sealed:
            _look_closer(status, configuration, run)
    if epochs and epochs[-1].stages["push"] == "done" and epochs[-1].stages["pull"] == "done":
        _count_late(epochs[-1], planned_context(configuration, run, epochs[-1].number))
    return epochs


def wait_until(configuration: Configuration, run: Run, what: str, timeout: float) -> None:
    """Wait until the last epoch needs people, or is sealed and reported.

    Args:
        configuration: The run's.
        run: The run.
        what: ``people`` or ``seal``.
        timeout: Seconds.

    Raises:
        UserError: It took longer, a flow run failed meanwhile, or ``what`` is neither.
    """
    if what not in ("people", "seal"):
        raise UserError(f"--wait-for is {what!r}, expected people or seal", remedy="d3po status --help")
    deadline = time.monotonic() + timeout
    while True:
        numbers = run.epochs()
        bound = bound_flow_runs(run, numbers[-1]) if numbers else []
        if bound and _reached(run, numbers[-1], bound, what):
            return
        # One that was turned away (cancelled) says nothing of the one that it met.
        ended = [one for one in bound if one.kind in (StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)]
        # A flow run that was just submitted is bound to no epoch yet.
        if (
            ended
            and all(one in ended or one.kind is StateType.COMPLETED for one in bound)
            and not epoch_flow_runs(StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING)
        ):
            raise UserError(
                f"flow run {ended[-1].name} is {ended[-1].state}: {ended[-1].message}",
                remedy=f"d3po status {run_folder(configuration)}",
            )
        if time.monotonic() > deadline:
            raise UserError(
                f"{run_folder(configuration)} did not come to wait for {what} within {timeout:.0f} s",
                remedy=f"d3po status {run_folder(configuration)}; prefect flow-run logs shows what it does",
            )
        time.sleep(POLL_SECONDS)


def _reached(run: Run, number: int, bound: list[BoundFlowRun], what: str) -> bool:
    kinds = {one.kind for one in bound}
    if what == "people":
        return StateType.PAUSED in kinds
    return StateType.COMPLETED in kinds and run.epoch(number).seal() is not None


def _stages(epoch: Epoch) -> dict[str, str]:
    plan, commits = epoch.plan(), epoch.commit_numbers()
    if plan is None:
        return dict.fromkeys(STAGES, "–")
    shards = sum(name in commits for name in plan["shards"])
    by_people = plan["frozen"]["labels.source"] == "people"
    checkpoints = sum(name.startswith("checkpoint-") for name in commits)
    return {
        "plan": "done",
        "generate": "done" if shards == len(plan["shards"]) else f"{shards}/{len(plan['shards'])} shards",
        "push": ("done" if "push" in commits else "–") if by_people else "not needed",
        "pull": "done" if "pull" in commits else "–",
        "train": "done" if "train" in commits else f"{checkpoints} checkpoints" if "train-plan" in commits else "–",
        "seal": "done" if epoch.seal() is not None else "–",
    }


def _look_closer(status: EpochStatus, configuration: Configuration, run: Run) -> None:
    try:
        status.flow_runs = bound_flow_runs(run, status.number)
    except UserError as error:
        status.problems.append(str(error))
    if status.stages["plan"] == "done":
        status.voided = len(voided(planned_context(configuration, run, status.number)))
    if status.waits_for_people:
        _look_at_people(status, planned_context(configuration, run, status.number))
    status.next_command = _next(status, run_folder(configuration))


def _look_at_people(status: EpochStatus, context: EpochContext) -> None:
    from tasks.labels.pull import labels_complete, labels_progress
    from tasks.labels.push import pushed

    status.project_url = pushed(context)["url"]
    try:
        status.progress = labels_progress(context)
        status.may_go_on = labels_complete(context, status.progress)
    except (UserError, LabelStudioError) as error:
        status.problems.append(str(error))


def _count_late(status: EpochStatus, context: EpochContext) -> None:
    """Judgements that came after the pull: reported, and never trained on unasked."""
    from tasks.labels.pull import late_judgements

    try:
        status.late = late_judgements(context)
    except (UserError, LabelStudioError) as error:
        status.problems.append(f"late judgements are not known: {error}")


def _next(status: EpochStatus, folder: str) -> str:
    kinds = [bound.kind for bound in status.flow_runs]
    if StateType.PAUSED in kinds:
        if status.may_go_on:
            return "nothing: the gate resumes it within its interval"
        if status.progress is None:
            return f"mend the problem named above, then d3po status {folder}"
        return f"people judge at {status.project_url}; or d3po proceed {folder} --reason … to go on with what there is"
    if StateType.RUNNING in kinds or StateType.PENDING in kinds or StateType.SCHEDULED in kinds:
        return f"wait; or, if its process is dead, d3po recover {folder}"
    ended = [bound for bound in status.flow_runs if bound.kind in (StateType.FAILED, StateType.CRASHED)]
    if ended:
        return f"prefect flow-run retry {ended[-1].id}"
    return "prefect deployment run epoch/epoch -p config=…"
