"""The method's configuration: sampling, LoRA, objective, training. Importing this module imports no torch.

Every field says when it is frozen (``frozen_by``): ``run`` by run.json, ``sampling`` by an epoch's plan, ``training``
by a training attempt's plan; ``free`` fields may change at any time. What the fields mean together is checked here,
before anything is spent; what only the model can tell (the schedule's last σ, say) is checked when it is loaded.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from d3po_core.objectives.specs import OBJECTIVES, ObjectiveSpec, spec_of

__all__ = [
    "LoraConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "SamplingConfig",
    "Section",
    "TrainingConfig",
    "check_together",
    "frozen_by",
]

Dtype = Literal["float32", "float16", "bfloat16"]


def frozen_by(
    stage: Literal["run", "sampling", "labels", "training", "free"], default: Any = ..., **kwargs: Any
) -> Any:
    """A pydantic field that belongs to one class of change (DESIGN: what may change when)."""
    return Field(default, json_schema_extra={"frozen_by": stage}, **kwargs)


class Section(BaseModel):
    """A part of the configuration: immutable, and refusing fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelConfig(Section):
    path: str = frozen_by("run")
    """A diffusers pipeline of Stable Diffusion 1.x/2.x layout: a folder or a hub id."""
    revision: str | None = frozen_by("run", None)
    """The hub revision (commit) to load; a folder has none."""
    dtype: Dtype = frozen_by("run", "float32")
    """Weights and network arithmetic, the same when sampling and training (autocast below float32). The adapter stays
    float32; log-probs are float32 means and float64 sums whatever this is."""
    compile: Literal["none", "blocks"] = frozen_by("run", "none")
    """blocks: the UNet's repeated blocks through torch.compile, which takes minutes once a process, so for long
    epochs if for any (measure first: benchmarks/README.md); none: as it is."""
    device: str = frozen_by("free", "auto")
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:1``."""


class SamplingConfig(Section):
    num_inference_steps: int = frozen_by("run", 20, ge=1, le=1000)
    """T, the denoising steps of one trajectory."""
    eta: float = frozen_by("run", 1.0, ge=0.0, le=1.0)
    """DDIM's η: 1 is ancestral sampling. 0 leaves no density to train on."""
    guidance_scale: float = frozen_by("run", 5.0, ge=0.0)
    """w of classifier-free guidance: ε_uncond + w (ε_cond − ε_uncond)."""
    latent_dtype: Dtype = frozen_by("run", "float32")
    """What latents are cast to before their log-prob is taken, and kept in."""
    long_prompts: Literal["refuse", "truncate"] = frozen_by("run", "refuse")
    """What to do with a prompt of more tokens than the text encoder takes."""
    group_size: int = frozen_by("sampling", 2, ge=2)
    """k, the images generated for one prompt."""
    shared_initial_noise: bool = frozen_by("sampling", True)
    """All images of a group start from the same x_T (D3PO); off for PRDP and DDPO."""
    groups_per_batch: int = frozen_by("sampling", 4, ge=1)
    """Whole groups that pass through the network together; part of what makes results bit-identical."""


class LoraConfig(Section):
    rank: int = frozen_by("run", 4, ge=1)
    """r of the low-rank update."""
    alpha: float = frozen_by("run", 4.0, gt=0)
    """The update is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = frozen_by("run", ("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    """Which layers of the UNet get an adapter, by the endings of their names. The paper: attention's q, k, v; published
    code adds out. Convolutions can have one too (``conv1``, ``conv2`` of the residual blocks)."""
    dropout: float = frozen_by("run", 0.0, ge=0.0, lt=1.0)
    """Refused above 0: the log-probs at the start of training could not equal the stored ones."""

    @model_validator(mode="after")
    def _no_dropout(self) -> "LoraConfig":
        if self.dropout > 0:
            raise ValueError(
                f"lora.dropout is {self.dropout}, expected 0: with dropout the log-probs before the first update "
                "cannot equal the stored ones (METHOD: start check). Remove the field."
            )
        return self


class ObjectiveConfig(Section):
    """The training loss. Which fields a kind reads, and their defaults, are in ``objectives/specs.py``; a field that
    the kind does not read is empty, and refused where it is given."""

    kind: Literal[tuple(OBJECTIVES)] = frozen_by("training", "d3po")  # type: ignore[valid-type]
    """The training loss: d3po, trajectory_dpo, diffusion_dpo and preferred_images learn from preferences; ddpo, dpok,
    prdp and reward_weighted need a reward for each image, hence programmed preferences."""
    reduction: Literal["mean", "sum"] | None = frozen_by("training", None)
    """Log-probs over C, H, W: mean (published code) or sum (the papers' formulas)."""
    reference: Literal["epoch_start", "pretrained"] | None = frozen_by("training", None)
    """The policy held to: the one that sampled this epoch (people), or the pretrained model (programmed)."""
    beta: float | None = frozen_by("training", None, gt=0)
    """The method's β: of D3PO and the DPOs the strength of the hold to the reference; PRDP's of the reward difference
    ΔR/β; reward_weighted's exp(β R). For log-probs in the unit that belongs to the reduction: D3PO's 0.1 for mean is
    0.1 / (C·H·W) for sum."""
    ratio_clip: Literal["none", "published", "pessimistic"] | None = frozen_by("training", None)
    """D3PO: none: Eq. 14; published: both log-ratios clamped; pessimistic: only where it moved the right way already."""
    ratio_clip_range: float | None = frozen_by("training", None, gt=0, lt=1)
    """ε of the clipping, for mean (× C·H·W for sum): log-ratios in [log(1−ε), log(1+ε)]; PRDP's in ±ε, in the unit of
    the reduction."""
    advantage_clip: float | None = frozen_by("training", None, gt=0)
    """DDPO: advantages are clipped to ± this many standard deviations."""
    statistics_size: int | None = frozen_by("training", None, ge=2)
    """DDPO: how many of a prompt's last rewards its mean and standard deviation are over; they persist over epochs."""
    statistics_minimum: int | None = frozen_by("training", None, ge=2)
    """DDPO: with fewer rewards of a prompt than this, the whole epoch's mean and standard deviation are used."""
    reward_weight: float | None = frozen_by("training", None, gt=0)
    """DPOK's α, the weight of the policy gradient."""
    kl_weight: float | None = frozen_by("training", None, ge=0)
    """DPOK's β: the weight of KL(π_θ ‖ pretrained) at each transition, in the unit of the reduction."""

    @model_validator(mode="before")
    @classmethod
    def _fields_of_the_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        kind = given.get("kind", "d3po")
        spec = spec_of(str(kind))
        own = {**spec.defaults, **({"reference": spec.references[0]} if spec.references else {})}
        foreign = sorted(given.keys() & cls.model_fields.keys() - own.keys() - {"kind"})
        if foreign:
            raise ValueError(
                f"objective.{foreign[0]} is not a field of kind {kind}, which has "
                f"{', '.join(sorted(own)) or 'none'}. Remove {', '.join('objective.' + name for name in foreign)}"
            )
        if spec.references and given.get("reference", own["reference"]) not in spec.references:
            raise ValueError(
                f"objective.reference is {given['reference']}, but {kind} is held to {' or '.join(spec.references)}"
            )
        if given.get("reduction") == "sum" and (missing := [n for n in spec.per_reduction if n not in given]):
            raise ValueError(
                f"objective.reduction is sum, but objective.{missing[0]} was left at its default, which is for mean. "
                "Set it: D3PO's 0.1, say, becomes 0.1 / (C·H·W), 6.1e-6 for latents of 4 × 64 × 64."
            )
        return {**own, **given}

    @model_validator(mode="after")
    def _statistics_can_be_used(self) -> "ObjectiveConfig":
        size, least = self.statistics_size, self.statistics_minimum
        if size is not None and least is not None and size < least:
            raise ValueError(
                f"objective.statistics_minimum is {least}, but only the last {size} rewards of a prompt are kept: its own "
                "statistics would never be used. Set objective.statistics_size at least as high"
            )
        return self

    @property
    def spec(self) -> ObjectiveSpec:
        """What this kind is and needs."""
        return spec_of(self.kind)

    @property
    def own_fields(self) -> dict[str, Any]:
        """The fields that this kind reads, with their values."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value is not None}


class TrainingConfig(Section):
    learning_rate: float = frozen_by("training", 3e-5, gt=0)
    adam_beta1: float = frozen_by("training", 0.9, ge=0, lt=1)
    adam_beta2: float = frozen_by("training", 0.999, ge=0, lt=1)
    adam_epsilon: float = frozen_by("training", 1e-8, gt=0)
    weight_decay: float = frozen_by("training", 1e-4, ge=0)
    max_grad_norm: float = frozen_by("training", 1.0, gt=0)
    """Gradients are clipped to this global norm."""
    inner_epochs: int = frozen_by("training", 1, ge=1)
    """Passes over the pairs within one epoch."""
    groups_per_step: int = frozen_by("training", 4, ge=1)
    """Whole groups in one optimizer step, over all processes."""
    first_transitions: int | None = frozen_by("training", None, ge=1)
    """Train on the first n of the T transitions only, in which the picture is composed; on all when empty (the paper).
    Late transitions have the smallest σ, so they add most of the gradient's variance and decide the least."""
    transitions_per_trajectory: int | None = frozen_by("training", None, ge=1)
    """Train on a seeded subset of these transitions; all of them when empty."""
    votes: Literal["majority", "soft", "reliability"] = frozen_by("training", "majority")
    """How several people's votes on a pair become its target: more than half of them; their share; or their share
    with everybody's vote counted by their reliability (Dawid–Skene)."""
    micro_batch: int | None = frozen_by("training", None, ge=1)
    """Network evaluations (an image at one transition) in one forward and backward. Empty: as many as fit into
    ``memory_budget_mb``, at most 64; the log says how many."""
    memory_budget_mb: int | None = frozen_by("training", None, ge=1)
    """What a micro-batch may take above the loaded network, 10⁶ bytes. Empty: half of what the device has, divided by
    the processes that train on it."""
    gradient_checkpointing: bool = frozen_by("training", False)
    """Compute each block of the network again in the backward pass instead of keeping it: a third to a half of the
    memory, for half as much time again."""
    checkpoint_every: int = frozen_by("free", 5, ge=1)
    """Optimizer steps between checkpoints."""


def check_together(sampling: SamplingConfig, training: TrainingConfig) -> None:
    """What sampling and training have to agree on, checked before anything is generated.

    Raises:
        ValueError: naming the fields.
    """
    if sampling.eta == 0:
        raise ValueError(
            "sampling.eta is 0: no action has a density, so there is nothing to train on. Set sampling.eta: 1.0; 0 is "
            "for evaluation only."
        )
    _at_most(training, "first_transitions", sampling.num_inference_steps, "sampling.num_inference_steps")
    if training.first_transitions is None:
        _at_most(training, "transitions_per_trajectory", sampling.num_inference_steps, "sampling.num_inference_steps")
    else:
        _at_most(training, "transitions_per_trajectory", training.first_transitions, "training.first_transitions")


def _at_most(training: TrainingConfig, field: str, limit: int, what: str) -> None:
    wanted = getattr(training, field)
    if wanted is not None and wanted > limit:
        raise ValueError(
            f"training.{field} is {wanted}, but there are {what} = {limit} transitions to train on. Set it lower or "
            "leave it empty."
        )
