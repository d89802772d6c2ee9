"""What an operator types to mean a configuration, a run, an epoch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # it waits until a verb needs it
    from tasks.context import EpochContext

__all__ = ["WITH_OVERRIDES", "ConfigArgument", "EpochOption", "RunArgument", "pushed_context", "selected_context"]

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A configuration file (configs/demo.yaml), or a run's folder.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, e.g. runs/demo.")]
EpochOption = Annotated[int | None, typer.Option("--epoch", help="The epoch's number; the last one by default.")]
WITH_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of a verb that takes ``--section.field value``, as ``context.args``."""


def selected_context(
    run: str, epoch: int | None, sealed: bool = False, overrides: Sequence[str] = ()
) -> "EpochContext":
    """The epoch of this number, the last by default; of the sealed ones if only these are meant.

    Raises:
        UserError: There is none.
        MissingDataError: There is no such run.
    """
    from tasks.config_reading import load_configuration
    from tasks.context import found_run, planned_context
    from tasks.errors import UserError

    configuration, opened = found_run(run)
    configuration = load_configuration(configuration, overrides)
    numbers = opened.sealed_epochs() if sealed else opened.epochs()
    if not numbers or (epoch is not None and epoch not in numbers):
        wanted = "an epoch" if epoch is None else f"epoch {epoch}"
        raise UserError(
            f"{run} has no {'sealed ' if sealed else ''}{wanted.removeprefix('an ')}; it has {numbers or 'none'}",
            remedy=f"d3po status {run}",
        )
    return planned_context(configuration, opened, numbers[-1] if epoch is None else epoch)


def pushed_context(run: str, epoch: int | None) -> "EpochContext":
    """The same, of an epoch whose comparisons are in Label Studio.

    Raises:
        UserError: They are not, or there is no such epoch.
    """
    from tasks.errors import UserError

    context = selected_context(run, epoch)
    if context.epoch.latest("push") is None:
        raise UserError(
            f"epoch {context.number} of {run} has nothing in Label Studio yet",
            remedy=f"d3po status {run} --wait-for people",
        )
    return context
