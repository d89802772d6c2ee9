"""``d3po audit``, ``heal``, ``prune`` and ``forget``: what keeps a run whole, and what may go."""

import getpass
from typing import Annotated

import typer

from flows.selected import WITH_OVERRIDES, EpochOption, RunArgument, selected_context
from flows.terminal import console, print_table
from tasks.errors import UserError

__all__ = ["verbs"]

verbs = typer.Typer()

PANEL = "Upkeep"


@verbs.command(rich_help_panel=PANEL)
def audit(
    what: Annotated[str, typer.Argument(metavar="RUN|ADAPTER", help="A run's folder or an exported adapter.")],
    moved_to: Annotated[str | None, typer.Option(help="Where the adapter's run lies now, if it was moved.")] = None,
) -> None:
    """Follow an adapter to every judgement, seed and digest behind it; exit 1 on the first mismatch."""
    from tasks.upkeep.audit import audit as follow

    for line in follow(what, moved_to):
        console.print(line)
    console.print("[green]everything agrees[/]")


@verbs.command(rich_help_panel=PANEL, context_settings=WITH_OVERRIDES)
def heal(
    context: typer.Context,
    run: RunArgument,
    epoch: EpochOption = None,
    void: Annotated[
        str | None,
        typer.Option(
            metavar="REASON", help="Give up judgements of images that come out otherwise than people saw them."
        ),
    ] = None,
) -> None:
    """Make damaged or missing shards again, into a new attempt."""
    from tasks.upkeep.heal import Voiding
    from tasks.upkeep.heal import heal as make_again

    if void is not None and not void.strip():
        raise UserError(
            "--void has no reason, expected why these judgements are given up", remedy="--void 'what happened'"
        )
    voiding = None if void is None else Voiding(reason=void, by=getpass.getuser())
    broken = selected_context(run, epoch, overrides=context.args)
    healed = False
    with broken.run.lock_epoch(broken.number):
        for line in make_again(broken, voiding):
            console.print(line)
            healed = True
    if not healed:
        console.print("nothing is damaged")


@verbs.command(rich_help_panel=PANEL)
def prune(
    run: RunArgument,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    epoch: Annotated[int | None, typer.Option("--epoch", help="Only this epoch; all by default.")] = None,
    latents: Annotated[bool, typer.Option("--latents", help="Trajectories of sealed epochs.")] = False,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Those of sealed epochs and of replaced training attempts.")
    ] = False,
    abandoned: Annotated[bool, typer.Option("--abandoned", help="Files that no marker names.")] = False,
    superseded: Annotated[
        bool,
        typer.Option(
            "--superseded", help="These, and files of commits and training attempts that a later one replaced."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, it is only listed.")] = False,
) -> None:
    """List what can go, with sizes; with --yes remove it, leaving tombstones that audit reads."""
    from tasks.context import found_run
    from tasks.upkeep.prune import Selection, prunable
    from tasks.upkeep.prune import prune as remove

    selection = Selection(latents=latents, checkpoints=checkpoints, abandoned=abandoned, superseded=superseded)
    _, opened = found_run(run)
    numbers = opened.epochs() if epoch is None else [selected_context(run, epoch).number]
    if yes:
        items = list(remove(opened, numbers, selection, reason=reason, by=getpass.getuser()))
    else:
        items = prunable(opened, numbers, selection)
    if not items:
        console.print(f"nothing of it is there\nnext: d3po status {run}")
        return
    print_table(
        ("epoch", "what", "files", "MB"),
        ((str(item.epoch), item.what, str(len(item.files)), f"{item.bytes / 1e6:.1f}") for item in items),
    )
    total = f"{sum(item.bytes for item in items) / 1e6:.1f} MB"
    if yes:
        console.print(f"{total} removed\nnext: d3po audit {run}")
    else:
        console.print(f"{total} can go; nothing was touched\nnext: the same command with --yes")


@verbs.command(rich_help_panel=PANEL)
def forget(
    run: RunArgument,
    user: Annotated[int, typer.Option(help="Label Studio's number of the person, as in user:7.")],
) -> None:
    """Erase a person's name and e-mail address from the run; their judgements stay, by number."""
    from tasks.context import found_run
    from tasks.upkeep.forget import forget as erase

    _, opened = found_run(run)
    held = erase(opened, user)
    where = f"epochs {', '.join(map(str, held))}" if held else "no epoch: none held them"
    console.print(
        f"name and e-mail address of user:{user} are erased from {where}; later pulls leave them out\n"
        "next: Label Studio has them still: docs/runbook.md, 'Somebody wants their name removed'"
    )
