"""Judgements used again: a new run with a judged epoch's plan, shards and judgements, to be trained in another way.

Everything is copied (by hard links where the disk allows) and verified; there are no references across runs. The
epoch keeps its number, as the noise of its images is addressed by it, and the uids of its comparisons, as they are in
Label Studio. Names of people stay behind.
"""

from collections.abc import Sequence

from storage.epoch import Epoch
from storage.fork import copy_commit, refuse_pruned
from storage.run import Run
from tasks.config import Configuration
from tasks.config_changes import changed_fields
from tasks.config_reading import load_configuration
from tasks.context import EpochContext, found_run, planned_context, run_folder
from tasks.errors import UserError
from tasks.generation.plan import prompts_used
from tasks.labels.voided import copy_voids
from tasks.upkeep.forget import forget, forgotten

__all__ = ["fork", "refuse_unfinished_fork"]

FORKED = "forked"
"""The commit that is made last: with it a fork is whole."""
FROZEN = ("run", "sampling", "labels")


def fork(folder: str, name: str, number: int | None = None, overrides: Sequence[str] = ()) -> EpochContext:
    """Make the new run; doing it again after it was cut short completes it.

    Args:
        folder: The run to take from.
        name: The new run's, beside it.
        number: The judged epoch; the last one by default.
        overrides: ``--section.field value``: training fields, and those that may change at any time.

    Raises:
        MissingDataError: The epoch's trajectories were pruned.
        UserError: The epoch is not judged, a field that the epoch froze would change, or the name is taken.
    """
    configuration, run = found_run(folder)
    number = _judged(run, folder) if number is None else number
    source = planned_context(configuration, run, number)
    if source.epoch.latest("pull") is None:
        raise UserError(f"epoch {number} of {folder} has no judgements to use again", remedy=f"d3po status {folder}")
    wanted = _wanted(source.configuration, [*overrides, "--run", name])
    _refuse_changes(source.configuration, wanted)
    for commit in source.epoch.latest_all(source.plan["shards"]).values():
        refuse_pruned(source.epoch, commit)
    target = _target(source, wanted)
    context = EpochContext(configuration=wanted, run=target, number=number)
    with target.lock_epoch(number):
        _copy(source, context)
    return context


def refuse_unfinished_fork(run: Run) -> None:
    """Never go on with half a fork: what is missing would be made up for, and people asked again.

    Raises:
        UserError: It was cut short.
    """
    origin = run.info.get("forked_from")
    if origin is not None and run.epoch(origin["epoch"]).latest(FORKED) is None:
        raise UserError(
            f"{run.location} is a fork of epoch {origin['epoch']} of run {origin['run']}, and was cut short",
            remedy=f"the same d3po fork {origin['location']} {run.name} again, which completes it",
        )


def _judged(run: Run, folder: str) -> int:
    judged = [number for number in run.epochs() if run.epoch(number).latest("pull") is not None]
    if not judged:
        raise UserError(f"{folder} has no judged epoch to fork", remedy=f"d3po status {folder}")
    return judged[-1]


def _wanted(before: Configuration, overrides: Sequence[str]) -> Configuration:
    """As asked for: first that the fields are right by themselves, then that they fit the epoch's, which stay."""
    wanted = load_configuration(before, overrides, of_a_plan=True)
    try:
        return load_configuration(wanted)
    except UserError as misfit:
        raise UserError(
            f"the epoch does not fit what is to be trained: {misfit.message}",
            remedy="choose objective and training fields that fit: a fork keeps its epoch's sampling and labels",
        ) from None


def _refuse_changes(before: Configuration, after: Configuration) -> None:
    changes = [
        line
        for kind in FROZEN
        for line in changed_fields(after.section_of_class(kind), before.section_of_class(kind))
        if not line.startswith("run:")
    ]
    if changes:
        raise UserError(
            "a fork trains on pictures and judgements that are there, which were made with other values:\n  "
            + "\n  ".join(changes),
            remedy="leave these fields as they were; d3po schema says which belong to the training",
        )


def _target(source: EpochContext, wanted: Configuration) -> Run:
    origin = {
        "run": source.run.name,
        "run_id": source.run.run_id,
        "location": source.run.location,
        "epoch": source.number,
        "prompts_used": prompts_used(source.run, source.number),
    }
    info = {
        "configuration": wanted.model_dump(mode="json"),
        "model_digest": source.run.info["model_digest"],
        "model_commit": source.run.info.get("model_commit"),
        "forked_from": origin,
    }
    root = wanted.storage.root
    if not Run.exists(root, wanted.run):
        return Run.create(root, wanted.run, info)
    there = Run.open(root, wanted.run)
    if any(there.info.get(field) != value for field, value in info.items()):
        raise UserError(
            f"{run_folder(wanted)} exists, and is not this fork of {run_folder(source.configuration)}",
            remedy="choose another name",
        )
    return there


def _copy(source: EpochContext, target: EpochContext) -> None:
    epoch, new = source.epoch, target.epoch
    names = ["pull", "push-plan", "push", "prompts", *source.plan["shards"]]
    if target.configuration.objective.reference == "pretrained":
        names.append("reference")
    for name in names:
        if epoch.latest(name) is not None:
            copied = copy_commit(epoch, name, new)
            if copied.content != epoch.latest(name).content:
                raise UserError(
                    f"{name} in {target.run.location} is another than in {source.run.location}",
                    remedy="choose another name for the fork",
                )
    new.create_plan({**source.plan, "run_id": target.run.run_id, "adapter_in": _adapter_in(source, new)})
    copy_voids(source, target)
    for user in forgotten(source.run) - forgotten(target.run):
        forget(target.run, user)
    if new.latest(FORKED) is None:
        seal = epoch.seal()
        origin = {**target.run.info["forked_from"], "content_digest": seal["digest"] if seal else None}
        new.commit(new.begin(FORKED), origin)


def _adapter_in(source: EpochContext, new: Epoch) -> dict | None:
    """What the epoch's images were sampled with, as the fork's own."""
    parent = source.plan["adapter_in"]
    if parent is None:
        return None
    holder = source.epoch if "commit" in parent else source.run.epoch(parent["epoch"])
    copied = copy_commit(holder, parent.get("commit", "train"), new, as_name="adapter-in")
    return {"epoch": parent["epoch"], "train": copied.digest, "commit": "adapter-in"}
