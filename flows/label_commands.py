"""``d3po annotate``, ``people``, ``proceed`` and ``repush``: what people do in Label Studio, seen from the run."""

from typing import Annotated

import typer

from flows.selected import EpochOption, RunArgument, pushed_context, selected_context
from flows.terminal import console, print_table

__all__ = ["verbs"]

verbs = typer.Typer()

PANEL = "People and their judgements"


@verbs.command(rich_help_panel=PANEL)
def annotate(
    run: RunArgument,
    simulate: Annotated[bool, typer.Option("--simulate", help="Let programmed objectives judge.")] = False,
    epoch: EpochOption = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="What the judges prefer by (may be repeated); the configured ones by default."),
    ] = None,
    error_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of answers given the wrong way.")] = 0.1,
    bias: Annotated[
        list[float] | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of groups answered left without a look; mark: of images marked without a look. "
            "Once for all judges, or once each.",
        ),
    ] = None,
    mark_below: Annotated[
        float | None,
        typer.Option(help="Mark what the objective values less than this, so that fewer are marked as images improve."),
    ] = None,
    judges: Annotated[int, typer.Option(min=1, help="Distinct users; at least the judgements a group wants.")] = 1,
    wait: Annotated[float, typer.Option(help="Seconds to wait until an epoch needs people.")] = 0.0,
) -> None:
    """Show where people judge, or (--simulate) judge by objectives through Label Studio's API."""
    from d3po_core.programmed.judges import expected_accuracy, to_be_marked
    from flows.status import wait_until
    from tasks.context import found_run
    from tasks.labels.annotate import MARK_SHARE, simulate_annotators
    from tasks.labels.push import pushed

    if wait:
        wait_until(*found_run(run), "people", wait)
    context = pushed_context(run, epoch)
    if not simulate:
        console.print(f"people judge at {pushed(context)['url']}")
        return
    objectives, biases = objective or context.configuration.labels.objectives, bias or [0.0]
    left = simulate_annotators(
        context, objectives=objectives, error_rate=error_rate, judges=judges, biases=biases, mark_below=mark_below
    )
    stated = f"{', '.join(objectives)}, error rate {error_rate:g}"
    if mark_below is not None:
        stated += f", marking below {mark_below:g}"
    if any(biases):
        stated += f", bias {', '.join(f'{one:g}' for one in biases)}"
    size = context.configuration.sampling.group_size
    leaned = to_be_marked(size, MARK_SHARE) / size if context.configuration.labels.screen == "mark" else 0.5
    right = ", ".join(f"{100 * expected_accuracy(error_rate, one, leaned):.3g}" for one in biases)
    expected = f"; of 100 answers {right} are expected to be right" if mark_below is None else ""
    console.print(f"{sum(left.values())} annotations by {len(left)} simulated judges ({stated}){expected}")
    _resume_what_is_complete()


@verbs.command(rich_help_panel=PANEL)
def people(run: RunArgument, epoch: EpochOption = None) -> None:
    """How well each person judges, by number: speed, agreement with the others, reliability, known answers."""
    from tasks.labels.judges import agreement_now, doubts, shown_rows

    context = selected_context(run, epoch)
    if context.epoch.latest("pull") is None:
        context = pushed_context(run, epoch)
    agreement = agreement_now(context)
    rows = shown_rows(agreement)
    if not rows:
        console.print(f"nobody has judged anything of epoch {context.number} yet\nnext: d3po status {run}")
        return
    print_table(list(rows[0]), (list(row.values()) for row in rows))
    alpha = "not known: no image pair has two votes" if agreement.alpha is None else f"{agreement.alpha:.3f}"
    console.print(f"Krippendorff's alpha of epoch {context.number}: {alpha} (1 is agreement, 0 is chance)")
    for doubt in doubts(agreement, context.configuration.labels.gold_floor):
        console.print(f"[red]warning[/]: {doubt}")


@verbs.command(rich_help_panel=PANEL)
def proceed(
    run: RunArgument, reason: Annotated[str, typer.Option(help="Why, for the record.")], epoch: EpochOption = None
) -> None:
    """Go on with the judgements there are; who said so, when, and the counts are written down."""
    import getpass

    from tasks.labels.pull import labels_progress

    context = pushed_context(run, epoch)
    done = labels_progress(context)
    context.epoch.note(
        "proceed",
        {
            "by": getpass.getuser(),
            "reason": reason,
            "settled": len(done.settled),
            "open": len(done.open),
            "given": done.given,
        },
    )
    console.print(f"epoch {context.number} goes on with {done.given} judgements; {len(done.open)} groups stay open")
    _resume_what_is_complete()


@verbs.command(rich_help_panel=PANEL)
def repush(run: RunArgument, epoch: EpochOption = None) -> None:
    """Make a deleted Label Studio project again; people judge anew."""
    from tasks.labels.push import import_comparisons, pushed

    context = pushed_context(run, epoch)
    with context.run.lock_epoch(context.number):
        import_comparisons(context, supersede=True)
    console.print(f"people judge at {pushed(context)['url']}")


def _resume_what_is_complete() -> None:
    """Without waiting for the scheduled gate; what it could not look at is said."""
    from flows.gate import check_suspended

    _, problems = check_suspended(console.print)
    for problem in problems:
        console.print(problem)
