"""``d3po people``, ``prune`` and ``forget``: who judges how well, what takes space, and whose name has to go."""

import getpass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.selected import EpochOption, RunArgument, pushed_context, selected_context

__all__ = ["VERBS"]

console = Console(soft_wrap=True, highlight=False)


def people(run: RunArgument, epoch: EpochOption = None) -> None:
    """How well each person judges, by number: speed, agreement with the others, reliability, known answers."""
    from tasks.judges import agreement_now, doubts, shown_rows

    context = selected_context(run, epoch)
    if context.epoch.latest("pull") is None:
        context = pushed_context(run, epoch)
    agreement = agreement_now(context)
    rows = shown_rows(agreement)
    if not rows:
        console.print(f"nobody has judged anything of epoch {context.number} yet\nnext: d3po status {run}")
        return
    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    alpha = "not known: no image pair has two votes" if agreement.alpha is None else f"{agreement.alpha:.3f}"
    console.print(f"Krippendorff's alpha of epoch {context.number}: {alpha} (1 is agreement, 0 is chance)")
    for doubt in doubts(agreement, context.configuration.labels.gold_floor):
        console.print(f"[red]warning[/]: {doubt}")


def prune(
    run: RunArgument,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    epoch: Annotated[int | None, typer.Option("--epoch", help="Only this epoch; all by default.")] = None,
    latents: Annotated[bool, typer.Option("--latents", help="Trajectories of sealed epochs.")] = False,
    abandoned: Annotated[bool, typer.Option("--abandoned", help="Files that no marker names.")] = False,
    superseded: Annotated[
        bool, typer.Option("--superseded", help="These, and files of commits that a later one replaced.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, it is only listed.")] = False,
) -> None:
    """List what can go, with sizes; with --yes remove it, leaving tombstones that audit reads."""
    from tasks.context import found_run
    from tasks.prune import Selection, prunable
    from tasks.prune import prune as remove

    selection = Selection(latents=latents, abandoned=abandoned, superseded=superseded)
    _, opened = found_run(run)
    numbers = opened.epochs() if epoch is None else [selected_context(run, epoch).number]
    if yes:
        items = list(remove(opened, numbers, selection, reason=reason, by=getpass.getuser()))
    else:
        items = prunable(opened, numbers, selection)
    if not items:
        console.print(f"nothing of it is there\nnext: d3po status {run}")
        return
    table = Table("epoch", "what", "files", "MB", box=None, pad_edge=False)
    for item in items:
        table.add_row(str(item.epoch), item.what, str(len(item.files)), f"{item.bytes / 1e6:.1f}")
    console.print(table)
    total = f"{sum(item.bytes for item in items) / 1e6:.1f} MB"
    if yes:
        console.print(f"{total} removed\nnext: d3po audit {run}")
    else:
        console.print(f"{total} can go; nothing was touched\nnext: the same command with --yes")


def forget(
    run: RunArgument,
    user: Annotated[int, typer.Option(help="Label Studio's number of the person, as in user:7.")],
) -> None:
    """Erase a person's name and e-mail address from the run; their judgements stay, by number."""
    from tasks.context import found_run
    from tasks.forget import forget as erase

    _, opened = found_run(run)
    held = erase(opened, user)
    where = f"epochs {', '.join(map(str, held))}" if held else "no epoch: none held them"
    console.print(
        f"name and e-mail address of user:{user} are erased from {where}; later pulls leave them out\n"
        "next: Label Studio has them still: docs/runbook.md, 'Somebody wants their name removed'"
    )


VERBS = (people, prune, forget)
"""What ``flows.cli`` adds to ``d3po``."""
