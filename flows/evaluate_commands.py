"""``d3po evaluate`` and ``d3po ab``: adapters compared by objectives, and by people who cannot tell which is which."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.result_commands import PANEL
from flows.selected import WITH_OVERRIDES
from flows.terminal import console, print_table

if TYPE_CHECKING:
    from tasks.config import Configuration

__all__ = ["ab", "verbs"]

verbs = typer.Typer()
ab = typer.Typer(
    name="ab", help="Blind comparisons of two candidates by people, in Label Studio.", no_args_is_help=True
)

EvaluationArgument = Annotated[
    str, typer.Argument(metavar="EVALUATION", help="An evaluation's folder, e.g. runs/evaluations/demo.")
]


@verbs.command(rich_help_panel=PANEL, context_settings=WITH_OVERRIDES)
def evaluate(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(metavar="CONFIG|RUN", help="A configuration file, or a run's folder, for model and prompts."),
    ],
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="NAME=RUN:EPOCH|FOLDER", help="A candidate; may be given several times."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The evaluation's folder; the run's name by default.")] = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="Show the first adapter and the base to people, blind.")
    ] = False,
) -> None:
    """Compare adapters with the pretrained model: held-out prompts, fixed noise, every configured objective."""
    from tasks.evaluation.evaluate import evaluate as compare
    from tasks.evaluation.evaluation_page import results_of

    configuration = _configuration(what, context.args)
    adapters = _adapters(adapter or [])
    done = compare(configuration, adapters, name)
    _print_results(results_of(done))
    console.print(f"page:   {done.location}/evaluation.html\nvalues: {done.location}/evaluation.parquet")
    if judge:
        _start(done.location, configuration, ("base", next(iter(adapters))))
    else:
        console.print(f"next: d3po ab start {done.location} base {next(iter(adapters))} has people compare them, blind")


@ab.command(context_settings=WITH_OVERRIDES)
def start(
    context: typer.Context,
    evaluation: EvaluationArgument,
    first: Annotated[str, typer.Argument(help="A candidate's name; base is the pretrained model.")],
    second: Annotated[str, typer.Argument(help="Another one's.")],
    config: Annotated[
        str | None, typer.Option(help="For labels.instructions and labels.document_root; defaults serve otherwise.")
    ] = None,
    people: Annotated[int | None, typer.Option(min=1, help="Distinct people who judge each comparison; 1.")] = None,
    per_prompt: Annotated[int | None, typer.Option(min=1, help="Images of each prompt that are compared; 1.")] = None,
    eta: Annotated[float | None, typer.Option(help="Images sampled with this η; the evaluation's first.")] = None,
) -> None:
    """Show two candidates' images of the same prompt and noise to people, sides shuffled, names hidden."""
    configuration = None if config is None else _configuration(config, context.args)
    _start(evaluation, configuration, (first, second), people=people, per_prompt=per_prompt, eta=eta)


@ab.command()
def results(
    evaluation: EvaluationArgument,
    number: Annotated[int, typer.Option(help="Which blind comparison; the first is 0.")] = 0,
) -> None:
    """Wins, losses and ties so far, with 95 % intervals; written beside the evaluation and into its page."""
    from tasks.evaluation.blind_results import pull_blind
    from tasks.evaluation.estimates import said_share
    from tasks.evaluation.finished import open_evaluation

    opened = open_evaluation(evaluation)
    found = pull_blind(opened, number)
    columns = ("candidate", "wins", "losses", "ties", "both bad", "win rate [95 %]", "judgements for it [95 %]")
    kinds = found["intervals"]
    counts = ("wins", "losses", "ties", "both_bad")
    print_table(
        columns,
        (
            (name, *(str(one[kind]) for kind in counts), said_share(one["win_rate"]), said_share(one["favoured"]))
            for name, one in found["candidates"].items()
        ),
    )
    console.print(f"{found['judged']} of {found['comparisons']} comparisons by {found['people']} people")
    console.print(f"intervals: win rate {kinds['win_rate']}, judgements {kinds['favoured']}")
    console.print(f"page: {opened.location}/evaluation.html")
    if not found["complete"]:
        console.print(f"next: people go on judging at {found['url']}, then the same command again")
    else:
        console.print("next: d3po report RUN shows it on the page of the run whose epoch was compared")


def _start(
    evaluation: str,
    configuration: "Configuration | None",
    candidates: tuple[str, str],
    **design: Any,
) -> None:
    from tasks.evaluation.blind import start_blind
    from tasks.evaluation.finished import configuration_of, open_evaluation

    opened = open_evaluation(evaluation)
    configuration = configuration or configuration_of(opened)
    blind = start_blind(configuration, opened, candidates, **design)
    console.print(f"people judge at {blind.url}\nnext: d3po ab results {opened.location} --number {blind.number}")


def _configuration(what: str, overrides: list[str]) -> "Configuration":
    """A configuration file's, or the one that a run was made with."""
    from tasks.config_reading import load_configuration
    from tasks.context import found_run

    if Path(what).is_file() or what.endswith((".yaml", ".yml")):
        return load_configuration(what, overrides)
    return load_configuration(found_run(what)[0], overrides)


def _adapters(given: list[str]) -> dict[str, str]:
    from tasks.errors import UserError

    pairs = [one.partition("=") for one in given]
    wrong = [one for one, (name, _, source) in zip(given, pairs, strict=True) if not name or not source]
    names = [name for name, _, _ in pairs]
    if wrong or not given or len(set(names)) != len(names):
        raise UserError(
            f"--adapter is {' '.join(wrong or given) or 'not given'}, expected NAME=RUN:EPOCH or NAME=FOLDER, each name once",
            remedy="d3po evaluate CONFIG --adapter A=runs/demo:0",
        )
    return {name: source for name, _, source in pairs}


def _print_results(body: Mapping[str, Any]) -> None:
    from tasks.evaluation.estimates import said

    print_table(
        ("candidate", "η", "measure", "mean [95 %]", "difference to base [95 %]"),
        (
            (one["candidate"], f"{one['eta']:g}", one["measure"], said(one["mean"]), said(one["difference"]))
            for one in body["results"]
        ),
    )
