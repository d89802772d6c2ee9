"""Make again what was lost or damaged: shards, prompt embeddings, reference log-probs, into a new attempt.

Where the numbers come out the same, the new marker supersedes the old one and nothing else changes. Where they do not
(another machine), or where nothing is left that tells, nobody may have judged them yet, or the groups are voided: their
judgements are kept, and no longer count.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from storage.commits import Commit
from storage.epoch import Epoch
from storage.errors import StorageError
from storage.heal import scan
from storage.seals import epoch_content
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.generation.generate import write_prompt_embeds
from tasks.generation.shards import write_generated
from tasks.labels.media import show_gold, show_images
from tasks.labels.push import push_plan, withdraw_voided
from tasks.labels.voided import void, voided
from tasks.training.pretrained import write_reference

__all__ = ["Voiding", "heal", "refuse_what_was_judged"]

OUTCOMES = {True: "same content", False: "other content", None: "what it was before is not known"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Voiding:
    """Somebody's decision to give up judgements of images that cannot be made again."""

    reason: str
    by: str


def heal(context: EpochContext, voiding: Voiding | None = None) -> Iterator[str]:
    """Look at every commit of the epoch, and make again those that can be.

    Args:
        context: The epoch.
        voiding: Given, groups whose images come out otherwise than people saw them are voided rather than refused.

    Yields:
        What was found and done, a line each.

    Raises:
        UserError: Something is damaged that cannot be computed again, or that came out otherwise after people saw it.
        LabelStudioError: All is made again, but what no longer counts could not be taken off; the same command does.
    """
    there = context.epoch.commit_numbers()
    damaged = scan(context.epoch)
    if _was_judged(context):
        damaged += [name for name in context.plan["shards"] if name not in there and name not in damaged]
    for name in there:
        commit = context.epoch.latest(name) if name.startswith("shard-") and name not in damaged else None
        if commit is not None and commit.pruned:
            yield f"{name}: {len(commit.pruned)} files were pruned {commit.pruning}; they are not made again"
    lost = [name for name in damaged if _maker(context, name) is None]
    for name in sorted(set(damaged) - set(lost), key=lambda name: (name == "reference", name)):  # it reads the shards
        check = _AsBefore(context, name, voiding)
        after = _maker(context, name)(context, name, supersede=True, check=check)
        yield f"{name}: made again in attempt {after.attempt}, {OUTCOMES[check.same]}"
        if check.voided:
            yield f"{name}: {check.voided} groups no longer count; what was said of them is kept"
    if voiding is not None and voided(context) and "reference" in there and "reference" not in damaged:
        write_reference(context, "reference", supersede=True)  # of the images that are there now
    if "push" in there and "push" not in lost:
        show_images(context)
        if "push-plan" not in lost:
            show_gold(context, push_plan(context))
    if lost:
        raise UserError(
            f"{', '.join(lost)} of epoch {context.number} is damaged, and what people or the training made cannot be "
            "computed again",
            remedy=f"restore {run_folder(context.configuration)} from a backup, then d3po audit it",
        )
    waited_for = "push" in there and "pull" not in there
    if voiding is not None and voided(context) and waited_for and (withdrawn := withdraw_voided(context)):
        yield f"{withdrawn} comparisons that nobody had answered were taken off Label Studio"


def _maker(context: EpochContext, name: str) -> Callable[..., Commit] | None:
    """What makes such an output again, if anything can; images that were imported have no seed."""
    if name.startswith("shard-"):
        return None if "imported" in context.plan else write_generated
    return {"prompts": write_prompt_embeds, "reference": write_reference}.get(name)


@dataclass
class _AsBefore:
    """Compares what was computed with what it was; where it differs and somebody judged it already, voids or refuses."""

    context: EpochContext
    name: str
    voiding: Voiding | None
    same: bool | None = None
    """None where neither marker nor seal tells."""
    voided: int = 0
    """Groups."""

    def __call__(self, content: dict[str, Any]) -> None:
        context, name, there = self.context, self.name, self.context.epoch.commit_numbers()
        self.same = _is_as_before(context.epoch, name, content)
        if self.same or not _was_judged(context):
            return
        sealed = context.epoch.seal() is not None
        trained = sealed or "train" in there
        if name not in context.plan["shards"]:
            if trained:
                self._refuse(voidable=False)
            return  # people did not see it
        groups = _changed_groups(context, name, content)
        if trained:
            if sealed or not voided(context).issuperset(groups):
                self._refuse(voidable=False)
            return  # given up before and cut short: it trained without them
        if self.voiding is None:
            self._refuse(voidable=True)
        # Before the commit: cut short in between, nothing is trained on that was not judged.
        void(context, groups, reason=self.voiding.reason, by=self.voiding.by)
        self.voided = len(groups)

    def _refuse(self, voidable: bool) -> NoReturn:
        number, folder = self.context.number, run_folder(self.context.configuration)
        remedy = f"run d3po heal where the epoch was generated, or restore {folder} from a backup, then d3po audit it"
        if voidable:
            remedy += (
                f"; where neither can be done, d3po heal {folder} --epoch {number} --void REASON keeps what was said of "
                "these groups and no longer counts it"
            )
        if self.same is False:
            raise UserError(
                f"{self.name} of epoch {number} came out with other numbers than were judged: another machine, other "
                "libraries or another number of threads",
                remedy=remedy,
            )
        raise UserError(
            f"{self.name} of epoch {number} lost its marker, and no seal tells whether what comes out was judged",
            remedy=remedy,
        )


def refuse_what_was_judged(context: EpochContext, missing: Sequence[str]) -> None:
    """Never make images up for those that people judged: whether they come out the same is for ``heal`` to say.

    Raises:
        UserError: The epoch's images were shown or judged.
    """
    if _was_judged(context):
        raise UserError(
            f"{', '.join(missing[:4])} of epoch {context.number} is gone, and was shown to people or judged",
            remedy=context.epoch.heal_command,
        )


def _was_judged(context: EpochContext) -> bool:
    return not {"push", "pull"}.isdisjoint(context.epoch.commit_numbers())


def _changed_groups(context: EpochContext, name: str, content: dict[str, Any]) -> list[str]:
    """The shard's groups of which any trajectory or image is another; all, where nothing tells."""
    groups = [group for batch in context.plan["shards"][name] for group in batch]
    try:
        commit = context.epoch.latest(name)
    except StorageError:
        return groups
    if commit is None:
        return groups
    before = dict(commit.content)
    size = context.configuration.sampling.group_size
    return [
        group
        for group in groups
        if any(
            values[id] != before[kind].get(id)
            for kind, values in content.items()
            for id in context.groups()[group].trajectory_ids(size)
        )
    ]


def _is_as_before(epoch: Epoch, name: str, content: dict[str, Any]) -> bool | None:
    """By the old marker; by the seal where that is lost; None where neither tells."""
    try:
        if before := epoch.latest(name):
            return content == dict(before.content)
    except StorageError:
        pass
    seal = epoch.seal()
    others = _readable_commits(epoch, {*epoch.commit_numbers(), *seal["record"]["commits"]} - {name}) if seal else None
    if seal is None or others is None:
        return None
    made = replace(next(iter(others.values())), name=name, content=content)
    return epoch_content({**others, name: made}, seal["content"]["parent"]) == seal["content"]


def _readable_commits(epoch: Epoch, names: set[str]) -> dict[str, Commit] | None:
    try:
        found = {name: epoch.latest(name) for name in sorted(names)}
    except StorageError:
        return None
    return {name: commit for name, commit in found.items() if commit} if all(found.values()) else None
