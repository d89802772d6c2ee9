"""The flow ``evaluate``: adapters against the pretrained model, and what came of it on the flow run."""

from tasks.startup import importing

with importing():
    from prefect import flow, get_run_logger
    from prefect.artifacts import create_markdown_artifact

    from flows.explain import without_traces
    from tasks.config import Configuration
    from tasks.config_reading import load_configuration
    from tasks.evaluation.blind import start_blind
    from tasks.evaluation.estimates import said
    from tasks.evaluation.evaluate import evaluate as evaluate_candidates
    from tasks.evaluation.evaluation_page import results_of

__all__ = ["evaluate"]

without_traces()


@flow(name="evaluate", persist_result=False, validate_parameters=True)
def evaluate(
    config: Configuration | str,
    adapters: dict[str, str],
    name: str | None = None,
    judge: list[str] | None = None,
    overrides: list[str] | None = None,
) -> str:
    """Compare adapters with the pretrained model; returns the evaluation's folder.

    Args:
        config: A configuration file as the worker sees it, or the configuration itself.
        adapters: Name → ``runs/demo:3`` (an epoch of a run) or an exported adapter's folder.
        name: The evaluation's folder below ``evaluations``; the run's name where it is left out.
        judge: Two candidates, e.g. ``["base", "A"]``, to be shown to people side by side, blind.
        overrides: ``--section.field value`` options on top of the configuration.
    """
    configuration = load_configuration(config, overrides or ())
    evaluation = evaluate_candidates(configuration, adapters, name)
    shown = ""
    if judge:
        blind = start_blind(configuration, evaluation, tuple(judge))
        shown = f"\nPeople judge {' against '.join(judge)}, blind, at {blind.url}\n"
    body = results_of(evaluation)
    lines = [
        f"| {one['candidate']} | {one['eta']:g} | {one['measure']} | {said(one['mean'])} | {said(one['difference'])} |"
        for one in body["results"]
    ]
    create_markdown_artifact(
        markdown="\n".join(
            [
                f"# Evaluation {evaluation.name}\n{shown}",
                "| candidate | η | measure | mean [95 %] | difference to base [95 %] |\n|---|---|---|---|---|",
                *lines,
                f"\nThe whole page: `{evaluation.location}/evaluation.html`.",
            ]
        ),
        key="".join(letter if letter.isalnum() else "-" for letter in f"evaluation-{evaluation.name}".lower()).strip(
            "-"
        ),
        description=f"Evaluation {evaluation.name}",
    )
    get_run_logger().info("the evaluation is in %s", evaluation.location)
    return evaluation.location
