"""Show an epoch's groups to people: presentation orders committed first, then imported exactly once."""

import json

from prefect import task
from prefect.cache_policies import NO_CACHE

from d3po_core.noise import generator
from tasks.context import EpochContext
from tasks.label_studio.parse import PushPlan
from tasks.label_studio.screens import task_data
from tasks.labels.connection import connect, public_url
from tasks.labels.gold import GOLD_FOLDER, mix_in
from tasks.labels.media import show_gold, show_images
from tasks.labels.repeats import repeated
from tasks.labels.screen import screen_of
from tasks.labels.voided import voided
from tasks.log import logger

__all__ = ["import_comparisons", "push", "push_plan", "pushed", "withdraw_voided"]

PUSH_FORMAT = "d3po-push/1"


@task(name="push", cache_policy=NO_CACHE, persist_result=False)
def push(context: EpochContext) -> int:
    """Import the epoch's comparisons into its Label Studio project, each once; returns the project's number."""
    if context.epoch.latest("push") is None:
        import_comparisons(context)
    return pushed(context)["project"]


def import_comparisons(context: EpochContext, *, supersede: bool = False) -> None:
    """Make the project (or find it again), import what is missing, and commit; ``supersede`` after a project was lost."""
    epoch = context.epoch
    plan, screen = (
        push_plan(context),
        screen_of(context.configuration.labels, context.configuration.sampling.group_size),
    )
    media, urls = show_images(context)
    urls |= show_gold(context, plan)
    client = connect()
    project = client.ensure_project(
        context.uid_prefix,
        title=f"{context.configuration.run} · epoch {context.number}",
        screen=screen,
        judgements_per_group=context.configuration.labels.judgements_per_group,
        media_path=str(media),
    )
    shown, lost = plan.shown, voided(context)
    items = [
        task_data(screen, plan.uid(name), _prompt(context, plan, name), [urls[image] for image in shown[name]])
        for name in _mixed(context, list(shown))
        if name not in lost
    ]
    ls_tasks = client.import_exactly_once(project, items)
    more = [ls_task for group in repeated(context) - lost for ls_task in ls_tasks[plan.uid(group)]]
    client.ask_more_people(more, context.configuration.labels.judgements_per_group + 1)
    attempt = epoch.begin("push")
    body = {
        "format": PUSH_FORMAT,
        "project": project,
        "url": public_url(client.project_url(project)),
        "ls_tasks": ls_tasks,
    }
    (attempt.path / "push.json").write_text(json.dumps(body, indent=1))
    details = {"project": project, "comparisons": len(items), "gold": len(plan.gold), "repeated": len(more)}
    epoch.commit(attempt, details, supersede=supersede)
    logger().info("%d comparisons wait for people at %s", len(items), body["url"])


def push_plan(context: EpochContext) -> PushPlan:
    """The presentation orders, drawn from the run seed and committed before anything is imported."""
    epoch = context.epoch
    if epoch.latest("push-plan") is None:
        attempt = epoch.begin("push-plan")
        size = context.configuration.sampling.group_size
        screen = screen_of(context.configuration.labels, size)
        plan = PushPlan(
            run_id=context.run.info["run_id"],
            epoch=context.number,
            screen=screen,
            orders={
                group.id: tuple(
                    group.trajectory_ids(size)[position]
                    for position in generator(
                        "presentation", run_seed=context.configuration.seed, epoch=context.number, group=group.id
                    ).permutation(size)
                )
                for group in context.groups().values()
            },
            gold=mix_in(context, attempt.path / GOLD_FOLDER),
        )
        (attempt.path / "push-plan.json").write_text(json.dumps(plan.to_json(), indent=1))
        epoch.commit(attempt)
    return PushPlan.from_json(json.loads(epoch.fetch(epoch.latest("push-plan"), "push-plan.json").read_text()))


def pushed(context: EpochContext) -> dict:
    """The committed push: ``project``, ``url`` and ``ls_tasks`` (uid → Label Studio task numbers)."""
    return json.loads(context.epoch.fetch(context.epoch.latest("push"), "push.json").read_text())


def withdraw_voided(context: EpochContext) -> int:
    """Spare people what no longer counts: such comparisons as nobody has answered leave Label Studio; how many did."""
    push, plan, client = pushed(context), push_plan(context), connect()
    there = {number for tasks in client.tasks(push["project"]).values() for number, _ in tasks}
    answered = {ls_task["id"] for ls_task in client.annotations(push["project"])}
    imported = {number for group in voided(context) for number in push["ls_tasks"].get(plan.uid(group), ())}
    open_still = imported & there - answered
    client.remove_tasks(open_still)
    return len(open_still)


def _mixed(context: EpochContext, names: list[str]) -> list[str]:
    """The comparisons in the order in which people meet them: shuffled where some have known answers."""
    if len(names) == len(context.groups()):
        return names
    order = generator("mixture", run_seed=context.configuration.seed, epoch=context.number).permutation(len(names))
    return [names[place] for place in order]


def _prompt(context: EpochContext, plan: PushPlan, name: str) -> str:
    return plan.gold[name].prompt if name in plan.gold else context.groups()[name].prompt
