"""What a flow run shows of itself in Prefect: plan, contact sheet, progress of the people, pairs, curves, digest."""

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.context import EpochContext, run_folder
from tasks.progress import Progress

__all__ = ["key", "publish_adapter", "publish_pairs", "publish_plan", "publish_progress"]


def key(context: EpochContext, name: str) -> str:
    """An artifact key: lower case, digits and dashes; one history per run and kind of artifact."""
    run = "".join(letter if letter.isalnum() else "-" for letter in context.configuration.run.lower()).strip("-")
    return f"{run}-{name}"


def publish_plan(context: EpochContext, plan: dict[str, Any]) -> None:
    configuration = context.configuration
    size, steps = configuration.sampling.group_size, configuration.sampling.num_inference_steps
    groups = len(plan["groups"])
    facts = {
        "run folder": run_folder(configuration),
        "epoch": context.number,
        "groups × images × steps": f"{groups} × {size} × {steps}",
        "network evaluations for sampling": 2 * groups * size * steps,
        "shards": len(plan["shards"]),
        "judgements wanted": groups * configuration.labels.judgements_per_group,
        "starts from": "the pretrained model" if plan["adapter_in"] is None else f"epoch {plan['adapter_in']['epoch']}",
    }
    create_table_artifact(
        table=[{"what": name, "value": str(value)} for name, value in facts.items()],
        key=key(context, "plan"),
        description=f"Plan of epoch {context.number}",
    )


def publish_progress(context: EpochContext, progress: Progress) -> None:
    rows = [{"judge": judge, "judgements": count} for judge, count in sorted(progress.per_judge.items())]
    create_table_artifact(
        table=[{"judge": "all", "judgements": f"{progress.given} of {progress.needed}"}, *rows],
        key=key(context, "annotation-progress"),
        description=(
            f"Epoch {context.number}: {len(progress.settled)} groups settled, {len(progress.set_aside)} set aside, "
            f"{len(progress.open)} open"
        ),
    )


def publish_pairs(context: EpochContext) -> None:
    commit = context.epoch.latest("pull")
    create_table_artifact(
        table=[{"what": name, "value": str(value)} for name, value in commit.details.items()],
        key=key(context, "judgements"),
        description=f"Judgements of epoch {context.number}",
    )


def publish_adapter(context: EpochContext) -> None:
    commit, seal = context.epoch.latest("train"), context.epoch.seal()
    files = "\n".join(f"| {name} | `{entry['sha256']}` |" for name, entry in sorted(commit.files.items()))
    create_markdown_artifact(
        markdown=(
            f"# Epoch {context.number} of {context.configuration.run}\n\nseal content `{seal['digest']}`\n\n"
            f"| file | sha256 |\n|---|---|\n{files}\n"
        ),
        key=key(context, "adapter"),
        description="The sealed training result and its digests",
    )
