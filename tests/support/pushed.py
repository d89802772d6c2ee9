"""Comparisons in a project of their own, as ``push`` would leave them."""

import itertools
from dataclasses import dataclass

from tasks.label_studio.client import LabelStudioClient
from tasks.label_studio.parse import ParsedAnnotations, PushPlan, parse_export
from tasks.label_studio.screens import Screen, local_file_url, task_data

_runs = itertools.count()


@dataclass
class Pushed:
    """An epoch's comparisons in Label Studio."""

    client: LabelStudioClient
    plan: PushPlan
    project: int
    items: list[dict]
    ls_tasks: dict[str, list[int]]

    def task(self, group_id: str) -> int:
        return self.ls_tasks[self.plan.uid(group_id)][0]

    def parsed(self) -> ParsedAnnotations:
        return parse_export(self.client.annotations(self.project), self.plan, self.ls_tasks)


def plan_of(screen: Screen, groups: int) -> PushPlan:
    """Of a run that no other test has; presented from last to first."""
    orders = {
        f"g{group:06d}": tuple(f"g{group:06d}-{image}" for image in reversed(range(screen.group_size)))
        for group in range(groups)
    }
    return PushPlan(run_id=f"run{next(_runs)}", epoch=3, screen=screen, orders=orders)


def items_of(plan: PushPlan) -> list[dict]:
    return [
        task_data(plan.screen, plan.uid(group), "a red circle", [local_file_url(f"{image}.png") for image in order])
        for group, order in plan.orders.items()
    ]


def push(client: LabelStudioClient, screen: Screen, groups: int, people: int = 2) -> Pushed:
    plan = plan_of(screen, groups)
    project = client.ensure_project(f"{plan.run_id}/{plan.epoch}", "a test", screen, people, None)
    items = items_of(plan)
    return Pushed(client, plan, project, items, client.import_exactly_once(project, items))
