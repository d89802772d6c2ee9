"""Each objective through the store and the training process, and what the configuration refuses of it."""

import pytest

from d3po_core.objectives.specs import OBJECTIVES
from storage.manifest import build_seal, environment
from tasks.config_reading import load_configuration
from tasks.context import EpochContext
from tasks.errors import UserError
from tasks.evaluation.held_out import held_out
from tasks.exchange.export import export_into_run
from tasks.policies import policy_for
from tasks.training import trainer
from tasks.training.attempt import training_attempt
from tasks.training.reference import reference
from tasks.training.training_plan import rewards_of
from tests.support.project import Project

from .conftest import Begin, generate_and_judge, judged_by_people


def trained(context: EpochContext) -> EpochContext:
    generate_and_judge(context)
    reference.fn(context)
    trainer.run(context, training_attempt(context).attempt)
    context.epoch.create_seal(build_seal(context.epoch, environment()))
    return context


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_two_epochs_of_each_objective(begin: Begin, kind: str):
    """The second starts from the first's state, and holds to the pretrained model where the objective does."""
    fields = {
        "objective": {"kind": kind, "beta": None, "ratio_clip": None},
        "sampling": {"shared_initial_noise": OBJECTIVES[kind].initial_noise != "independent"},
    }
    first = trained(begin(kind.replace("_", "-"), **fields))
    second = trained(begin(kind.replace("_", "-"), number=1, **fields))
    contents = [context.epoch.latest("train").content for context in (first, second)]
    assert contents[0]["adapter"] != contents[1]["adapter"]
    assert (second.epoch.latest("reference") is not None) == (kind == "prdp")
    rewards = rewards_of(second, second.epoch.latest("train-plan"))
    assert len(rewards) == (12 if OBJECTIVES[kind].labels == "rewards" else 0)
    export_into_run(second)
    card = second.epoch.read_aside("adapter/README.md")
    assert card is not None
    assert OBJECTIVES[kind].title in card.decode()


def test_every_method_is_measured_on_the_same_held_out_noise(begin: Begin):
    """What an epoch's groups share is the method's; a held-out image before any training is the same for all."""
    measured = {"prompts": "prompts.txt"}
    preferring = begin("preferring", evaluation=measured).configuration
    rewarded = begin(
        "rewarded",
        evaluation=measured,
        objective={"kind": "ddpo", "beta": None, "ratio_clip": None},
        sampling={"shared_initial_noise": False},
    ).configuration
    ours, theirs = (held_out(one, policy_for(one)).images for one in (preferring, rewarded))
    assert (ours == theirs).all()


def refused(project: Project, **sections: object) -> str:
    with pytest.raises(UserError) as caught:
        load_configuration(project.configuration("refused", **sections))
    return str(caught.value)


def test_a_reward_is_not_made_of_peoples_comparisons(at_home: Project):
    message = refused(
        at_home, objective={"kind": "ddpo", "beta": None, "ratio_clip": None}, labels={"source": "people"}
    )
    assert "needs a reward for each image, and people's comparisons give none" in message
    assert "d3po, trajectory_dpo, preferred_images, diffusion_dpo" in message


def test_an_objective_refuses_groups_it_is_not_defined_for(at_home: Project):
    message = refused(at_home, sampling={"shared_initial_noise": False})
    assert "d3po is defined for images of one x_T. Set sampling.shared_initial_noise: true" in message
    message = refused(at_home, objective={"kind": "prdp", "ratio_clip": None})
    assert "prdp is defined for images that each start from noise of their own" in message


def test_another_objective_on_the_command_line_leaves_the_files_fields_behind(at_home: Project):
    config = at_home.configuration("overridden", objective={"kind": "d3po", "beta": 3.0, "ratio_clip": "published"})
    same = load_configuration(config, ["--objective.ratio_clip_range", "0.2"])
    assert (same.objective.beta, same.objective.ratio_clip_range) == (3.0, 0.2)
    other = load_configuration(config, ["--objective.kind", "diffusion_dpo"])
    assert other.objective.own_fields == {"kind": "diffusion_dpo", "reference": "pretrained", "beta": 2000.0}


def test_a_target_has_to_be_measured(at_home: Project):
    message = refused(at_home, experiment={"target_objective": "jpeg_incompressibility", "target": 2.0})
    assert "not measured on held-out prompts" in message
    assert "belong together" in refused(at_home, experiment={"target": 2.0})


def test_a_reward_is_not_made_of_an_epoch_that_people_compared(begin: Begin):
    """Nor of imported pairs: whatever the configuration says by now."""
    judged_by_people(begin(labels={"source": "people"}))
    with pytest.raises(UserError, match="in epoch 0 images were compared by people"):
        training_attempt(begin(objective={"kind": "reward_weighted"}))
