"""The model card of an adapter: what it was made from, how much was judged, and its curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from d3po_core.objectives.specs import spec_of
from tasks.context import EpochContext, base_model
from tasks.reports.history import (
    EpochHistory,
    history_of,
    judged_by,
    objective_history,
    trained_configuration,
    trained_digest,
)
from tasks.reports.plots import panels
from tasks.reports.training_panels import objective_panels, training_panels

__all__ = ["card_files"]

CURVES = "curves.png"


def card_files(context: EpochContext, merged: bool = False) -> dict[str, bytes]:
    """``README.md`` and, where anything was measured, ``curves.png`` of a sealed epoch.

    Args:
        context: The epoch.
        merged: The card is that of the whole pipeline with the adapter inside.
    """
    epochs = history_of(context, last=context.number)
    wanted = [*objective_panels(epochs), *training_panels(epochs)]
    files = {CURVES: panels(wanted, 3, "png")} if wanted else {}
    return {"README.md": _card(context, epochs, merged, bool(files)).encode()} | files


def _card(context: EpochContext, epochs: Sequence[EpochHistory], merged: bool, curves: bool) -> str:
    configuration, last = context.configuration, epochs[-1]
    sampling, lora = configuration.sampling, configuration.lora
    model, commit = base_model(context)
    base = f"{model}@{commit}" if commit else model
    trained = trained_configuration(last)
    title = spec_of(trained["objective.kind"]).title
    rows = {
        "base model": f"`{model}`" + (f" at `{commit}`" if commit else ""),
        "digest of the base model": f"`{context.run.info['model_digest']}`",
        "rank, alpha, modules": f"{lora.rank}, {lora.alpha:g}, {', '.join(lora.target_modules)}",
        "judged by": judged_by(epochs),
        "judgements": _counts(epochs, "data/judgements"),
        "pairs trained on": _counts(epochs, "data/pairs"),
        "agreement of two judges, ties, marked": _shares(last),
        "epochs behind it": f"{len(epochs)}{_origin(context)}",
        "objective": f"{title}; {_fields(trained, 'objective')}",
        "trained with": _fields(trained, "training"),
        "sampled with": f"T {sampling.num_inference_steps}, η {sampling.eta:g}, w {sampling.guidance_scale:g}",
        **_measured(epochs),
        "configuration digest": f"`{trained_digest(last)}`",
        "run id, seal": f"`{context.run.info['run_id']}`, `{last.seal}`",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    arguments = f'"{model}", revision="{commit}"' if commit else f'"{model}"'
    load = (
        'pipe = StableDiffusionPipeline.from_pretrained("this folder")'
        if merged
        else f'pipe = StableDiffusionPipeline.from_pretrained({arguments})\n    pipe.load_lora_weights("this folder")'
    )
    kind = "The whole pipeline with a LoRA adapter inside its weights," if merged else "A LoRA adapter"
    thread = (
        ""
        if merged
        else "\n`provenance.json` names the run; `d3po audit` of this folder follows it to every judgement and seed.\n"
    )
    picture = f"\n![Objectives and training over the epochs]({CURVES})\n" if curves else ""
    return f"""---
base_model: {model}
library_name: diffusers
tags: [lora, text-to-image, d3po, human-feedback]
---
# {configuration.run}, epoch {context.number}

{kind} of {base}, trained with {title}.

    {load}

| | |
|---|---|
{table}
{picture}{thread}"""


def _origin(context: EpochContext) -> str:
    """Of a fork, whose pictures and judgements its first epoch has, and that others came before."""
    origin = context.run.info.get("forked_from")
    return (
        f", the first forked from epoch {origin['epoch']} of run {origin['run']} ({origin['run_id']})" if origin else ""
    )


def _counts(epochs: Sequence[EpochHistory], metric: str) -> str:
    """In this epoch, and in all."""
    own, every = epochs[-1].data.get(metric, 0), sum(epoch.data.get(metric, 0) for epoch in epochs)
    return f"{own:,.0f} in this epoch, {every:,.0f} in all"


def _shares(epoch: EpochHistory) -> str:
    names = ("data/agreement", "data/tie_rate", "data/marked_rate")
    return ", ".join(f"{epoch.data[name]:.1%}" if name in epoch.data else "–" for name in names)


def _measured(epochs: Sequence[EpochHistory]) -> dict[str, str]:
    rows = {}
    for objective in epochs[-1].after:
        found = objective_history(epochs, objective)
        rows[f"{objective} on {len(epochs[-1].prompts)} held-out prompts"] = (
            f"{found.means[-1]}; change since {found.since} {found.changes[-1]} (95 %)"
        )
    return rows


def _fields(trained: Mapping[str, Any], section: str) -> str:
    """A section's fields that say something, the kind first."""
    fields = {
        name.partition(".")[2]: value
        for name, value in trained.items()
        if name.startswith(f"{section}.") and value is not None
    }
    kind = [str(fields.pop("kind"))] if "kind" in fields else []
    return ", ".join([*kind, *(f"{name} {value}" for name, value in fields.items())])
