"""Everything that can be known to fail is looked at before anything is spent: by ``d3po init``, and by a new epoch."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.config import Configuration
from tasks.costs import epoch_costs
from tasks.errors import UserError
from tasks.generation.prompts import read_prompts
from tasks.labels.gold import check_gold, read_gold
from tasks.notices import notification_block

__all__ = ["Check", "preflight"]

SPARE = 1.2
"""How much more than the planned megabytes has to be free: training state, exports, reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at and found well."""

    what: str
    found: str


def preflight(configuration: Configuration) -> Iterator[Check]:
    """Look at each part in the order of its price. Nothing is made.

    Raises:
        UserError | StorageError | LabelStudioError | ModelError | ObjectiveError: At the first thing that would fail.
    """
    prompts = read_prompts(configuration.prompts.file)
    yield Check(what="prompts", found=f"{len(prompts)} in {configuration.prompts.file}")
    held_out = read_prompts(configuration.evaluation.prompts) if configuration.evaluation.prompts else []
    if held_out:
        yield Check(what="held-out prompts", found=f"{len(held_out)} in {configuration.evaluation.prompts}")
    by_people = configuration.labels.source == "people"
    if by_people and configuration.labels.gold:
        yield _check_known_answers(configuration)
    yield from _check_model(configuration, [*prompts, *held_out])
    if by_people:
        yield from _check_label_studio(configuration)
    yield from _check_objectives(configuration, prompts[0])
    if configuration.orchestration.notify:
        yield Check(what="notifications", found=f"by {type(notification_block(configuration)).__name__}")


def _check_known_answers(configuration: Configuration) -> Check:
    rows = read_gold(configuration.labels.gold, configuration.sampling.group_size)
    return Check(what="known answers", found=f"{len(rows)} in {configuration.labels.gold}")


def _check_model(configuration: Configuration, prompts: list[str]) -> Iterator[Check]:
    from d3po_core.ddim import check_trainable
    from d3po_core.objectives.base import get_objective
    from d3po_core.start_check import check_tolerance
    from flows.cost_card import disk_megabytes
    from tasks.policies import policy_for

    policy = policy_for(configuration)
    check_trainable(policy.schedule)
    check_tolerance(get_objective(configuration.objective, policy.dimensions), policy.network_dtype)
    policy.check_prompts(prompts)
    sigma, trainable = policy.schedule.sigma, policy.schedule.trainable
    yield Check(
        what="model",
        found=(
            f"{configuration.model.path}, latents {'×'.join(map(str, policy.latent_shape))}, σ {float(sigma[0]):.4g} … "
            f"{float(sigma[-1]):.4g}, {int(trainable.sum())} of {len(trainable)} steps to train on"
        ),
    )
    if configuration.labels.source == "people" and configuration.labels.gold:
        check_gold(read_gold(configuration.labels.gold, configuration.sampling.group_size), policy.image_size)
    costs = epoch_costs(configuration, policy.latent_shape)
    yield from _check_disk(configuration, SPARE * disk_megabytes(policy, costs))


def _check_objectives(configuration: Configuration, prompt: str) -> Iterator[Check]:
    from tasks.policies import policy_for
    from tasks.programmed import try_objectives

    for name, said in try_objectives(configuration, policy_for(configuration).image_size, prompt):
        yield Check(what=f"objective {name}", found=said)


def _check_disk(configuration: Configuration, wanted: float) -> Iterator[Check]:
    root = configuration.storage.root
    where = Path(os.environ.get("D3PO_CACHE", Path.home())) if root.startswith("s3://") else Path(root).absolute()
    existing = next(folder for folder in (where, *where.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e6
    if free < wanted:
        raise UserError(
            f"an epoch takes about {wanted:.0f} MB, but {existing} has {free:.0f} MB free",
            remedy="set storage.root to a larger disk, or fewer prompts.groups_per_epoch",
        )
    yield Check(what="disk", found=f"{free:.0f} MB free at {existing}, {wanted:.1f} MB for an epoch")


def _check_label_studio(configuration: Configuration) -> Iterator[Check]:
    from tasks.labels.connection import connect
    from tasks.labels.media import media_folder

    client = connect()
    yield Check(what="Label Studio", found=f"{client.url} answers, the key is user {client.whoami()}'s")
    folder, _ = media_folder(configuration)
    yield Check(what="images for Label Studio", found=f"below its document root, in {folder}")
