"""The arithmetic of an epoch, against counts of what the code does."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from d3po_core.objectives.specs import OBJECTIVES, spec_of
from d3po_core.policy import Policy
from d3po_core.preferences import judgements_to_pairs
from d3po_core.records import Judgement, Reward
from d3po_core.reference import reference_log_probs
from d3po_core.training import train
from tasks.config import Configuration
from tasks.config_reading import parse_configuration
from tasks.context import EpochContext
from tasks.costs import EpochCosts, epoch_costs
from tasks.evaluation.held_out import evaluate_epoch
from tasks.policies import policy_for
from tests.d3po_core import tiny
from tests.support.gold import write_gold


def configuration(**sections: dict) -> Configuration:
    base = {"run": "costs", "model": {"path": "model"}, "prompts": {"file": "prompts.txt", "groups_per_epoch": 100}}
    return parse_configuration({**base, **sections}, "the test")


def test_bytes_are_those_of_all_latents_and_images():
    costs = epoch_costs(configuration(), (4, 64, 64))
    assert costs.trajectory_bytes == 21 * 4 * 64 * 64 * 4
    assert costs.disk_megabytes(image_size=512, prompt_values=0, adapter_values=0) == pytest.approx(
        200 * (21 * 4 * 64 * 64 * 4 + 1.5 * 512 * 512) / 1e6
    )
    half = configuration(sampling={"latent_dtype": "bfloat16"})
    assert epoch_costs(half, (4, 64, 64)).trajectory_bytes * 2 == costs.trajectory_bytes


def test_what_lies_beside_the_trajectories_is_in_it():
    training = {"groups_per_step": 10, "checkpoint_every": 4}
    costs = epoch_costs(configuration(training=training), (4, 64, 64), held_out=5)
    assert costs.checkpoints == 3, "after 4 and 8 of 10 steps, and at the end"
    without = costs.disk_megabytes(image_size=512, prompt_values=0, adapter_values=0)
    assert without == pytest.approx((200 * costs.trajectory_bytes + (200 + 2 * 4 * 5) * 1.5 * 512 * 512) / 1e6)
    whole = costs.disk_megabytes(image_size=512, prompt_values=77 * 768, adapter_values=800_000)
    assert whole - without == pytest.approx(4 * (101 * 77 * 768 + (1 + 3 * 3) * 800_000) / 1e6)


@pytest.mark.parametrize(("guidance", "rows"), [(5.0, 2), (1.0, 1)])
def test_images_of_one_start_share_the_first_evaluation(guidance: float, rows: int):
    costs = epoch_costs(configuration(sampling={"guidance_scale": guidance, "group_size": 2}), (4, 8, 8))
    assert costs.sampling_evaluations == rows * 100 * (20 + 19)


def test_training_counts_transitions_inner_epochs_and_steps():
    training = {"first_transitions": 10, "inner_epochs": 3, "groups_per_step": 16}
    costs = epoch_costs(configuration(training=training), (4, 8, 8), held_out=48)
    assert costs.training_evaluations == 2 * 100 * (10 + 9) * 3
    assert costs.optimizer_steps == 3 * 7
    assert costs.held_out_evaluations == 2 * 2 * 48 * 20
    assert costs.pretrained_held_out_evaluations == 2 * 48 * 20


@pytest.mark.parametrize(
    ("processes", "groups_per_step", "share"), [(1, 16, 1.0), (2, 16, 0.5), (3, 16, (6 * 6 + 2) / 100), (4, 1, 1.0)]
)
def test_processes_share_the_groups_of_each_step(processes: int, groups_per_step: int, share: float):
    costs = epoch_costs(
        configuration(training={"groups_per_step": groups_per_step}, orchestration={"training_processes": processes}),
        (4, 8, 8),
    )
    assert costs.busiest_process == pytest.approx(share)


def test_what_an_objective_evaluates_beside_the_gradient():
    def of(kind: str, **training: int) -> tuple[int, int, int]:
        fields = {"objective": {"kind": kind}, "training": training, "labels": {"source": "programmed"}}
        shared = {"shared_initial_noise": kind != "prdp"}
        costs = epoch_costs(configuration(sampling=shared, **fields), (4, 8, 8))
        return costs.training_evaluations, costs.passes_without_gradient, costs.reference_evaluations

    assert of("d3po") == (2 * 100 * 39, 0, 0)
    assert of("d3po", micro_batch=1) == (2 * 100 * 39, 1, 0)
    assert of("trajectory_dpo", micro_batch=39) == (2 * 100 * 39, 0, 0)
    assert of("trajectory_dpo", micro_batch=38) == (2 * 100 * 39, 1, 0)
    assert of("ddpo", micro_batch=1) == (2 * 100 * 39, 0, 0)
    assert of("dpok", micro_batch=1) == (2 * 100 * 39, 1, 0), "the pretrained model's alone"
    assert of("prdp", micro_batch=40) == (2 * 100 * 40, 0, 2 * 100 * 40)
    assert of("prdp", micro_batch=39) == (2 * 100 * 40, 1, 2 * 100 * 40)
    assert of("preferred_images") == (100 * 20, 0, 0), "of two images one is preferred"
    assert of("diffusion_dpo") == (100 * 40, 1, 0)


def test_marking_gives_at_most_the_product_of_the_halves():
    mark = configuration(sampling={"group_size": 7}, labels={"screen": "mark", "judgements_per_group": 3})
    costs = epoch_costs(mark, (4, 8, 8))
    assert (costs.pairs, costs.judgements, costs.images) == (1200, 300, 700)


def pairs_of_a_group(size: int, training: dict | None = None, **labels: Any) -> int:
    sections = {"sampling": {"group_size": size}, "labels": labels, "training": training or {}}
    return epoch_costs(configuration(**sections), (4, 8, 8)).pairs // 100


def test_a_programme_orders_all_images_whatever_the_screen():
    assert pairs_of_a_group(8, source="programmed") == 8 * 7 // 2
    assert pairs_of_a_group(2, source="programmed") == 1


def test_split_votes_of_several_people_are_pairs_too():
    two = {"screen": "mark", "judgements_per_group": 2}
    assert pairs_of_a_group(7, **two) == 3 * 4
    assert pairs_of_a_group(7, {"votes": "soft"}, **two) == 7 * 6 // 2
    assert pairs_of_a_group(7, {"votes": "soft"}, screen="mark") == 3 * 4


@pytest.mark.parametrize(
    "marked", [({0, 1, 2}, {0, 3, 4}, {0, 1, 5}), ({0}, {0, 1}, {0, 1, 2}), ({0, 1, 2}, {0, 1, 2})]
)
def test_a_majority_makes_no_more_pairs_than_one_judge(marked: tuple[set[int], ...]):
    ids = tuple(f"g-{image}" for image in range(7))
    judgements = [
        Judgement(
            id=f"ls:{judge}", group_id="g", judge=f"user:{judge}", verdict="mark", trajectory_ids=ids,
            levels=tuple((-float(image in bad),) for image in range(7)), updated_at="2026-01-01T00:00:00",
        )
        for judge, bad in enumerate(marked)
    ]  # fmt: skip
    pairs, _ = judgements_to_pairs(judgements)
    assert 0 < len(pairs) <= pairs_of_a_group(7, screen="mark", judgements_per_group=len(marked))


def test_known_answers_are_shown_to_as_many_people(tmp_path: Path):
    labels = {"judgements_per_group": 2, "gold": write_gold(tmp_path / "gold"), "gold_fraction": 0.1}
    costs = epoch_costs(configuration(labels=labels), (4, 8, 8))
    assert (costs.judgements, costs.known_answer_judgements) == (200, 2 * 11), "11 of 111 comparisons"
    rare = epoch_costs(configuration(labels=labels | {"gold_fraction": 0.001}), (4, 8, 8))
    assert rare.known_answer_judgements == 2, "at least one"


def test_repeated_groups_are_judgements_too():
    labels = {"judgements_per_group": 2, "repeat_fraction": 0.1}
    assert epoch_costs(configuration(labels=labels), (4, 8, 8)).judgements == 210


# ---- against what the code does ------------------------------------------------------------------------------------

STEPS, SIZE, GROUPS = 4, 3, 4
PAIRS = [
    tiny.pair(group, preferred, dispreferred, target)
    for group in range(GROUPS)
    for preferred, dispreferred, target in ((0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.75))
]
"""The images of each group in their order: all but the last are preferred to one. The middle one's coefficients do not
add up to 0, where it would not be evaluated."""
REWARDS = [
    Reward(
        trajectory_id=f"g{group:06d}-{image}",
        group_id=f"g{group:06d}",
        prompt=tiny.PROMPTS[group],
        value=math.sin(3.0 * group + 7.0 * image),
    )
    for group in range(GROUPS)
    for image in range(SIZE)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("costs") / "model")


@contextmanager
def counted_rows(policy: Policy) -> Iterator[Counter[bool]]:
    """The rows that pass through the network, by whether it is for a gradient."""
    rows: Counter[bool] = Counter()

    def count(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        rows[torch.is_grad_enabled()] += len(arguments[0])

    hook = policy.unet.register_forward_pre_hook(count)
    try:
        yield rows
    finally:
        hook.remove()


def tiny_epoch(kind: str = "d3po", **training: int) -> Configuration:
    """Four groups of three images, two optimizer steps an inner epoch; nothing is clipped."""
    spec = spec_of(kind)
    clip = {"ratio_clip_range": 0.9} if "ratio_clip_range" in spec.defaults and kind != "d3po" else {}
    return configuration(
        prompts={"file": "prompts.txt", "groups_per_epoch": GROUPS},
        sampling={
            "num_inference_steps": STEPS,
            "guidance_scale": 3.0,
            "group_size": SIZE,
            "groups_per_batch": 2,
            "shared_initial_noise": spec.initial_noise != "independent",
        },
        labels={"source": "programmed"},
        objective={"kind": kind, **clip},
        training={"learning_rate": 1e-6, "groups_per_step": 2, "inner_epochs": 2, **training},
    )


def costs_of(epoch: Configuration) -> EpochCosts:
    return epoch_costs(epoch, (4, 8, 8), micro_batch=epoch.training.micro_batch)


def loaded(model: Path, epoch: Configuration) -> Policy:
    return tiny.load(model, **epoch.sampling.model_dump(include={"group_size", "shared_initial_noise"}))


@pytest.mark.parametrize("kind", ["d3po", "prdp"])
def test_sampling_and_the_reference_evaluate_what_is_counted(model: Path, kind: str):
    epoch = tiny_epoch(kind)
    held = epoch.objective.model_copy(update={"reference": "pretrained"})
    costs = costs_of(epoch.model_copy(update={"objective": held}))
    policy = loaded(model, epoch)
    with counted_rows(policy) as rows:
        source = tiny.MemorySource(tiny.sample(policy, GROUPS), tiny.embeddings(policy))
    assert rows == {False: costs.sampling_evaluations}
    with counted_rows(policy) as rows:
        reference_log_probs(policy, source, [group.id for group in tiny.groups(GROUPS)])
    assert rows == {False: costs.reference_evaluations}


@pytest.mark.parametrize("micro_batch", [2, 64])
@pytest.mark.parametrize("kind", sorted(OBJECTIVES))
def test_training_evaluates_what_is_counted(model: Path, kind: str, micro_batch: int):
    """With gradient each state once; without, the first passes from the second optimizer step on, and the reference."""
    epoch = tiny_epoch(kind, micro_batch=micro_batch)
    costs = costs_of(epoch)
    policy = loaded(model, epoch)
    source = tiny.MemorySource(tiny.sample(policy, GROUPS), tiny.embeddings(policy))
    stored = {name: source.trajectories.log_prob[row] for row, name in enumerate(source.trajectories.ids)}
    with counted_rows(policy) as rows:
        train(
            policy, source, PAIRS, epoch.objective, epoch.training, run_seed=1, epoch=0, rewards=REWARDS,
            reference_log_probs=stored,
        )  # fmt: skip
    first_known = spec_of(kind).quantity == "log_prob"
    in_blocks = costs.training_evaluations
    if kind == "d3po":  # the first state is a group's: one evaluation, which fits; the card says "at most"
        in_blocks -= 2 * GROUPS * epoch.training.inner_epochs
    first_passes = in_blocks * (costs.optimizer_steps - first_known) // costs.optimizer_steps
    without = costs.first_passes * first_passes + costs.pretrained_passes * costs.training_evaluations
    assert (rows[True], rows[False]) == (costs.training_evaluations, without)


def test_held_out_images_are_sampled_as_often_as_is_counted(two_epochs: EpochContext):
    """Three sets from the second epoch on; the KL's trajectories and means are counted by the card."""
    prompts, steps = 3, two_epochs.configuration.sampling.num_inference_steps
    costs = epoch_costs(two_epochs.configuration, (4, 8, 8), prompts)
    policy, kl = policy_for(two_epochs.configuration), 3 * 2 * prompts * steps
    with counted_rows(policy) as rows:
        evaluate_epoch(two_epochs)
    assert rows[False] - kl == costs.held_out_evaluations + costs.pretrained_held_out_evaluations
    first = EpochContext(configuration=two_epochs.configuration, run=two_epochs.run, number=0)
    with counted_rows(policy) as rows:
        evaluate_epoch(first)
    assert rows[False] - kl == costs.held_out_evaluations
