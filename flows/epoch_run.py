"""One epoch of a run, as a plain function: what is left to do is decided by what is committed, and by nothing else.

The flows ``epoch`` and, for many epochs, ``experiment`` call it; only an outermost flow run can be suspended, so it is
they who suspend when it raises ``WaitingForPeople``.
"""

from dataclasses import dataclass

from prefect import State
from prefect.futures import PrefectFuture
from prefect.utilities.annotations import quote

from flows.preflight import preflight
from storage.manifest import build_seal, environment
from tasks.artifacts import publish_adapter, publish_plan, publish_progress
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.exchange.fork import refuse_unfinished_fork
from tasks.generation.generate import encode_prompts, generate_shard, store_shard
from tasks.generation.plan import make_plan
from tasks.generation.shards import GeneratedShard
from tasks.labels.progress import Progress
from tasks.labels.pull import judge_by_programme, labels_complete, labels_progress, pull
from tasks.labels.push import push, pushed
from tasks.log import flow_run_id, logger
from tasks.notices import tell
from tasks.reports.report import report
from tasks.training.reference import reference
from tasks.training.train import train
from tasks.training.training_plan import refuse_voided_pairs
from tasks.upkeep.heal import refuse_what_was_judged

__all__ = ["WaitingForPeople", "go_on_with", "run_epoch"]


@dataclass
class WaitingForPeople(Exception):
    """The epoch goes on when its judgements are there."""

    url: str
    progress: Progress

    def __str__(self) -> str:
        return (
            f"waiting for people: {len(self.progress.open)} of {self.progress.groups} groups are open, "
            f"{self.progress.given} judgements of {self.progress.needed} are given, at {self.url}"
        )


def go_on_with(context: EpochContext, *, retrain: bool = False) -> None:
    """Work alone on an epoch that this flow run is bound to; a new one is looked at first for what can be known to fail.

    Raises:
        WaitingForPeople: Everything is pushed and judgements are missing.
        LockedError: Another process works on it.
    """
    with context.run.lock_epoch(context.number):
        context.run.sweep()
        if context.epoch.plan() is None:
            for check in preflight(context.configuration):
                logger().info("%s: %s", check.what, check.found)
        run_epoch(context, retrain=retrain)


def run_epoch(context: EpochContext, *, retrain: bool = False) -> None:
    """Take the epoch from where it stands to its seal and report.

    Raises:
        WaitingForPeople: Everything is pushed and judgements are missing.
    """
    if retrain:
        _refuse_retraining(context)
    if context.epoch.seal() is None:
        refuse_unfinished_fork(context.run)
        plan = make_plan(context)
        _refuse_unfinished_import(context)
        publish_plan(context, plan)
        generate(context)
        judge(context)
        reference(context)
        train(context, retrain)
        refuse_voided_pairs(context)
        seal = context.epoch.create_seal(build_seal(context.epoch, environment()))
        logger().info("epoch %d is sealed: content %s", context.number, seal["digest"])
    report(context)
    publish_adapter(context)
    tell(context, "sealed", "sealed", f"next: d3po report {run_folder(context.configuration)} --epoch {context.number}")


def _refuse_retraining(context: EpochContext) -> None:
    """Begin a training again only where one is unfinished; a retry of the flow run that began it again may go on."""
    epoch, folder = context.epoch, run_folder(context.configuration)
    attempt, flow_run = epoch.latest("train-plan"), flow_run_id()
    if attempt is not None and flow_run is not None and attempt.details.get("flow_run") == flow_run:
        return
    if epoch.seal() is not None or attempt is None:
        raise UserError(
            f"epoch {context.number} of {folder} has no unfinished training to begin again",
            remedy="leave out --retrain; a finished epoch stays as it is sealed",
        )
    if epoch.latest("train") is not None:
        raise UserError(
            f"the training of epoch {context.number} of {folder} is finished, and only its seal is missing",
            remedy=f"d3po run CONFIG seals it; then d3po fork {folder} NAME trains on its judgements in another way",
        )


def _refuse_unfinished_import(context: EpochContext) -> None:
    """Pictures from elsewhere are never made up for by pictures of our own."""
    missing = [name for name in ("pull", *context.plan["shards"]) if context.epoch.latest(name) is None]
    if "imported" in context.plan and missing:
        raise UserError(
            f"epoch {context.number} of {run_folder(context.configuration)} is imported, and the import was cut short: "
            f"{', '.join(missing[:4])} is missing",
            remedy=f"d3po import CONFIG {context.plan['imported']['file']}, which completes it",
        )


def generate(context: EpochContext) -> None:
    """Prompt embeddings, then the shards that are not committed yet.

    Computed one after the other in this thread: the network is one, and computing in a thread beside the main one takes
    half as long again (OpenMP then has more threads than cores and lets them sleep between operations). Each is stored
    in the background while the next is computed, so two are in memory at most. A shard that cannot be computed does not
    keep the others from being made; one that cannot be stored does, as the disk would not take the others either.
    """
    missing = [name for name in context.plan["shards"] if context.epoch.latest(name) is None]
    if missing:
        refuse_what_was_judged(context, missing)
    encode_prompts(context)
    retries = context.configuration.orchestration.shard_retries
    compute, store = generate_shard.with_options(retries=retries), store_shard.with_options(retries=retries)
    computed: dict[str, GeneratedShard] = {}
    failed: list[State] = []
    storing: PrefectFuture | None = None
    for name in missing:
        state = compute(context, name, quote(computed), return_state=True)
        if storing is not None:
            storing.result()
        storing = None
        if state.is_completed():
            storing = store.submit(context, name, quote(computed))
        else:
            failed.append(state)
    if storing is not None:
        storing.result()
    for state in failed:
        state.result()


def judge(context: EpochContext) -> None:
    """Judgements into the store: by a programme at once, by people when they are complete.

    Raises:
        WaitingForPeople: They are not.
    """
    if context.epoch.latest("pull") is not None:
        return
    if context.configuration.labels.source == "programmed":
        judge_by_programme(context)
        return
    push(context)
    progress = labels_progress(context)
    publish_progress(context, progress)
    if not labels_complete(context, progress):
        waiting, project = WaitingForPeople(pushed(context)["url"], progress), pushed(context)["project"]
        tell(context, f"wanted {project}", "judgements are wanted", str(waiting))
        raise waiting
    found = f"{progress.given} of {progress.needed} judgements are given, {len(progress.open)} groups stay open"
    tell(context, "complete", "the judgements are complete" if progress.complete else "it goes on as it is", found)
    pull(context)
