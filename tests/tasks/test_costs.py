"""The arithmetic of an epoch, against counts of what the code does."""

import pytest

from tasks.config import Configuration
from tasks.config_reading import parse_configuration
from tasks.costs import epoch_costs


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


def test_what_an_objective_evaluates_beside_the_gradient():
    def of(kind: str, **training: int) -> tuple[int, int, int]:
        fields = {"objective": {"kind": kind}, "training": training, "labels": {"source": "programmed"}}
        shared = {"shared_initial_noise": kind != "prdp"}
        costs = epoch_costs(configuration(sampling=shared, **fields), (4, 8, 8))
        return costs.training_evaluations, costs.passes_without_gradient, costs.reference_evaluations

    assert of("d3po") == (2 * 100 * 39, 0, 0)
    assert of("d3po", micro_batch=1) == (2 * 100 * 39, 1, 0)
    assert of("trajectory_dpo") == (2 * 100 * 39, 1, 0)
    assert of("dpok") == (2 * 100 * 39, 1, 0)
    assert of("prdp") == (2 * 100 * 40, 1, 2 * 100 * 40)
    assert of("preferred_images") == (100 * 40, 0, 0)
    assert of("diffusion_dpo") == (100 * 40, 1, 0)


def test_marking_gives_at_most_the_product_of_the_halves():
    mark = configuration(sampling={"group_size": 7}, labels={"screen": "mark", "judgements_per_group": 3})
    costs = epoch_costs(mark, (4, 8, 8))
    assert (costs.pairs, costs.judgements, costs.images) == (1200, 300, 700)


def test_repeated_groups_are_judgements_too():
    labels = {"judgements_per_group": 2, "repeat_fraction": 0.1}
    assert epoch_costs(configuration(labels=labels), (4, 8, 8)).judgements == 210
