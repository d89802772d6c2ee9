"""``d3po``: the operator's verbs. Each prints what it found and, where something is to be done, the next command.

RUN is a run's folder as it lies there (``runs/demo``, ``s3://bucket/runs/demo``); CONFIG is a configuration file or a
run's folder, for the configuration that it was made with; its fields can be overridden by ``--section.field value``. Heavy imports wait until a verb needs them.
"""

import atexit
import gc
import logging
import os
import sys

import typer

from flows import evaluate_commands, label_commands, result_commands, run_commands, upkeep_commands
from flows.explain import explained
from flows.service_commands import services

__all__ = ["app", "main"]

app = typer.Typer(
    name="d3po",
    help="Fine-tune image diffusion models from human preferences: resumable, auditable epochs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (run_commands, label_commands, result_commands, evaluate_commands, upkeep_commands):
    app.add_typer(module.verbs)
app.add_typer(evaluate_commands.ab, name="ab", rich_help_panel=result_commands.PANEL)
app.add_typer(services, name="services", rich_help_panel=upkeep_commands.PANEL)


def main() -> None:
    """The entry point: a user's mistake is explained, never shown as a stack trace."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING" if "--here" not in sys.argv else "INFO")
    # Without an address Prefect would start a server of its own for a moment, and nothing would find its runs again.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "false")
    # It warns whenever a verb ends within milliseconds of its last event, which is sent all the same.
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)
    # Going through all modules once more at the end takes up to a second, for nothing.
    atexit.register(gc.freeze)
    from flows.service_settings import load_environment

    load_environment()
    with explained():
        app()


if __name__ == "__main__":
    main()
