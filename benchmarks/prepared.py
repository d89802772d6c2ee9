"""Epochs for measuring: planned, generated and judged by the pipeline's own functions, without any service."""

import shutil
from pathlib import Path

from d3po_core.noise import generator
from d3po_core.programmed.judges import SimulatedJudge
from d3po_core.records import Judgement
from storage.run import Run
from tasks.config import Configuration
from tasks.context import EpochContext, create_run
from tasks.generation.generate import write_prompt_embeds
from tasks.generation.plan import make_plan
from tasks.generation.shards import write_generated
from tasks.labels.annotate import MARK_SHARE
from tasks.labels.pull import programmed_values, write_judgements

__all__ = ["copied", "judge", "judged", "planned", "prepared"]


def planned(configuration: Configuration) -> EpochContext:
    """A new run's first epoch with its plan and prompt embeddings."""
    context = EpochContext(configuration=configuration, run=create_run(configuration), number=0)
    make_plan(context)
    write_prompt_embeds(context)
    return context


def prepared(configuration: Configuration) -> EpochContext:
    """A first epoch that is ready to be trained on."""
    context = planned(configuration)
    for name in context.plan["shards"]:
        write_generated(context, name)
    judge(context)
    return context


def copied(context: EpochContext, root: Path) -> EpochContext:
    """The same epoch in another root, as a process sees it that has verified nothing yet."""
    shutil.copytree(Path(context.run.root) / context.run.name, root / context.run.name)
    return EpochContext(
        configuration=context.configuration.model_copy(
            update={"storage": context.configuration.storage.model_copy(update={"root": str(root)})}
        ),
        run=Run.open(str(root), context.run.name),
        number=context.number,
    )


def judge(context: EpochContext, error_rate: float = 0.0) -> None:
    """Judgements of one simulated judge, committed as a pull."""
    configuration = context.configuration
    columns = [programmed_values(context, name) for name in configuration.labels.objectives]
    value_of = {id: tuple(column[id] for column in columns) for id in columns[0]}
    simulated = SimulatedJudge(name="0", run_seed=configuration.seed, epoch=context.number, error_rate=error_rate)
    size = configuration.sampling.group_size
    judgements = [
        judged(group.id, {id: value_of[id] for id in group.trajectory_ids(size)}, simulated, configuration)
        for group in context.groups().values()
    ]
    attempt = context.epoch.begin("pull")
    write_judgements(attempt.path, judgements)
    context.epoch.commit(attempt, {"judgements": len(judgements), "source": "simulated"})


def judged(
    group: str, value_of: dict[str, tuple[float, ...]], judge: SimulatedJudge, configuration: Configuration
) -> Judgement:
    """What a simulated judge says of a group, presented in the drawn order."""
    ids, compare = tuple(value_of), configuration.labels.screen == "compare"
    if compare:
        order = generator("presentation", run_seed=configuration.seed, epoch=0, group=group).permutation(len(ids))
        left, right = (ids[position] for position in order)
        answer = judge.compare(group, value_of[left], value_of[right])
        level_of = {left: float(answer == "left"), right: float(answer == "right")}
    else:
        marked = judge.mark(group, value_of, MARK_SHARE)
        level_of = {id: -float(id in marked) for id in ids}
    return Judgement(
        id=f"simulated:{group}",
        group_id=group,
        judge="simulated",
        verdict="prefer" if compare else "mark",
        trajectory_ids=ids,
        levels=tuple((level_of[id],) for id in ids),
        updated_at="2026-01-01T00:00:00+00:00",
    )
