"""``d3po status`` on a terminal."""

from flows.status import STAGES, EpochStatus
from flows.terminal import console, print_table

__all__ = ["print_status"]


def print_status(folder: str, epochs: list[EpochStatus]) -> None:
    """One line an epoch, then what the last one waits for and the next command."""
    if not epochs:
        console.print(f"{folder} has no epoch yet\nnext: prefect deployment run epoch/epoch -p config=…")
        return
    print_table(
        ("epoch", *STAGES), ((str(status.number), *(status.stages[stage] for stage in STAGES)) for status in epochs)
    )
    _print_last(folder, epochs[-1])


def _print_last(folder: str, status: EpochStatus) -> None:
    if status.progress is not None:
        progress = status.progress
        console.print(
            f"people: {progress.given} of {progress.needed} judgements, {len(progress.settled)} groups settled, "
            f"{len(progress.set_aside)} set aside, {len(progress.open)} open, at {status.project_url}"
        )
        for judge, count in sorted(progress.per_judge.items()):
            console.print(f"  {judge}: {count} judged, {progress.left_for[judge]} open to them")
    if status.voided:
        console.print(f"{status.voided} groups no longer count: their images were lost, and came out otherwise")
    for bound in status.flow_runs:
        console.print(f"flow run {bound.name} ({bound.id}): {bound.state} {bound.message}".rstrip())
    if status.late:
        console.print(f"{status.late} judgements came, or were changed, after the pull; they are not trained on")
    for problem in status.problems:
        console.print(f"[red]problem[/]: {problem}")
    console.print(f"next: {status.next_command}" if status.next_command else f"next: d3po report {folder}")
