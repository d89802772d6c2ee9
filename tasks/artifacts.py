"""What a flow run shows of itself in Prefect: plan, contact sheet, progress of the people, pairs, curves, digest."""

import json
from pathlib import Path
from typing import Any

from prefect.artifacts import Artifact, create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate

from storage.commits import Commit
from tasks.context import EpochContext, run_folder
from tasks.costs import epoch_costs
from tasks.labels.judges import agreement_of_epoch, shown_rows
from tasks.labels.progress import Progress
from tasks.labels.repeats import judgements_wanted
from tasks.log import flow_run_id
from tasks.training.training_plan import training_plan

__all__ = ["address_of", "key", "publish_adapter", "publish_pairs", "publish_plan", "publish_progress"]


def key(context: EpochContext, name: str) -> str:
    """An artifact key: lower case, digits and dashes; one history per run and kind of artifact."""
    run = "".join(letter if letter.isalnum() else "-" for letter in context.configuration.run.lower()).strip("-")
    return f"{run}-{name}"


def address_of(context: EpochContext, file: str) -> str:
    """Where a browser finds a file of the run's folder, as far as it is known."""
    served = context.configuration.storage.public_url
    if served is not None:
        return f"{served.rstrip('/')}/{context.run.name}/{file}"
    location = f"{context.run.location}/{file}"
    return location if "://" in location else Path(location).absolute().as_uri()


def publish_plan(context: EpochContext, plan: dict[str, Any]) -> None:
    configuration = context.configuration
    size, steps = configuration.sampling.group_size, configuration.sampling.num_inference_steps
    groups = len(plan["groups"])
    facts = {
        "run folder": run_folder(configuration),
        "epoch": context.number,
        "groups × images × steps": f"{groups} × {size} × {steps}",
        "network evaluations for sampling": epoch_costs(configuration, ()).sampling_evaluations,
        "shards": len(plan["shards"]),
        "judgements wanted": sum(judgements_wanted(context).values()),
        "starts from": "the pretrained model" if plan["adapter_in"] is None else f"epoch {plan['adapter_in']['epoch']}",
    }
    create_table_artifact(
        table=[{"what": name, "value": str(value)} for name, value in facts.items()],
        key=key(context, "plan"),
        description=f"Plan of epoch {context.number}",
    )


def publish_progress(context: EpochContext, progress: Progress, suspended: str | None = None) -> None:
    """How far people are, where that has changed since it was last shown (the gate looks every minute).

    Args:
        context: The epoch.
        progress: How far they are.
        suspended: The epoch's flow run, where another looks in its place; it is there that people look for it.
    """
    rows = [{"judge": judge, "judgements": count} for judge, count in sorted(progress.per_judge.items())]
    table = [{"judge": "all", "judgements": f"{progress.given} of {progress.needed}"}, *rows]
    description = (
        f"Epoch {context.number}: {len(progress.settled)} groups settled, {len(progress.set_aside)} set aside, "
        f"{len(progress.open)} open"
    )
    # _sync: also where an event loop runs
    shown = Artifact.get(key(context, "annotation-progress"), _sync=True)
    if shown is not None and (shown.description, json.loads(shown.data or "null")) == (description, table):
        return
    # Not create_table_artifact, which warns where no flow runs, as in the verbs.
    artifact = ArtifactCreate(
        type="table",
        key=key(context, "annotation-progress"),
        description=description,
        data=json.dumps(table),
        flow_run_id=suspended or flow_run_id(),
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(artifact)


def publish_pairs(context: EpochContext, attempt: Commit) -> None:
    """What people said, and the pairs that a training attempt made of it."""
    facts = context.epoch.latest("pull").details | training_plan(context.epoch, attempt)["metrics"]
    create_table_artifact(
        table=[{"what": name, "value": str(value)} for name, value in facts.items()],
        key=key(context, "judgements"),
        description=f"Judgements and pairs of epoch {context.number}",
    )
    agreement = agreement_of_epoch(context)
    alpha = "not known" if agreement.alpha is None else f"{agreement.alpha:.3f}"
    create_table_artifact(
        table=shown_rows(agreement),
        key=key(context, "judges"),
        description=f"Judges of epoch {context.number}, by number; Krippendorff's alpha {alpha}",
    )


def publish_adapter(context: EpochContext) -> None:
    """The exported adapter's digest, and the seal that it hangs on."""
    seal = context.epoch.seal()
    provenance = json.loads(context.epoch.read_aside("adapter/provenance.json"))
    create_markdown_artifact(
        markdown=(
            f"# Epoch {context.number} of {context.configuration.run}\n\n"
            f"| what | sha256 |\n|---|---|\n| adapter/pytorch_lora_weights.safetensors | `{provenance['sha256']}` |\n"
            f"| its tensors | `{provenance['lora']}` |\n| seal (content) | `{seal['digest']}` |\n"
        ),
        key=key(context, "adapter"),
        description="The adapter, its digests and its seal",
    )
