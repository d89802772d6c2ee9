"""Blind comparisons: two candidates' images of the same prompt and noise, side by side, in Label Studio.

Sides are drawn and recorded and files get random names, both committed before anything is shown: nothing that a person
sees (the address of an image, the order of the comparisons, the project's title) tells whose image it is.
"""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d3po_core.noise import generator
from storage.evaluation import Evaluation, Part
from storage.layout import EVALUATIONS_FOLDER, blind_key
from tasks.config import Configuration
from tasks.errors import UserError
from tasks.evaluation.evaluation_page import results_of
from tasks.evaluation.names import group_of, images_name
from tasks.label_studio.parse import PushPlan
from tasks.label_studio.screens import compare_screen, local_file_url, task_data
from tasks.labels.connection import connect, public_url
from tasks.labels.media import served_folder
from tasks.log import logger

__all__ = ["Blind", "blind_of", "start_blind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """One blind comparison of an evaluation."""

    number: int
    candidates: tuple[str, str]
    owners: dict[str, str]
    """Image's random name → the candidate whose it is."""
    plan: PushPlan
    """Which image stands where; its trajectory ids are the random names."""
    prompts: dict[str, str]
    """Comparison → its prompt: images of one prompt are not drawn independently."""
    people: int
    """Distinct people who are asked about each comparison."""
    project: int | None
    """Label Studio's number, once it is shown."""
    ls_tasks: dict[str, list[int]]
    url: str


def start_blind(
    configuration: Configuration,
    evaluation: Evaluation,
    candidates: tuple[str, ...],
    *,
    people: int | None = None,
    per_prompt: int | None = None,
    eta: float | None = None,
) -> Blind:
    """Show two candidates to people; the same two again at the same η are the same project.

    Args:
        configuration: Says where Label Studio finds images, and, for a compare screen, what annotators read.
        evaluation: Whose images; they have to be there.
        candidates: Two of its candidates' names.
        people: Distinct people who judge each comparison; 1, or as begun, where it is left out.
        per_prompt: Images of each prompt that are compared; likewise.
        eta: Which images; the evaluation's first η where it is left out.

    Raises:
        UserError: No such candidates, their images are not there, or the comparison was begun with other numbers.
    """
    body = results_of(evaluation)
    known = [one["name"] for one in body["candidates"]]
    if len(set(candidates)) != 2 or not set(candidates) <= set(known):
        raise UserError(
            f"expected two different candidates of {evaluation.location}, found {', '.join(candidates) or 'none'}; it has "
            f"{', '.join(known)}",
            remedy=f"d3po ab start {evaluation.location} {known[0]} {known[-1]}",
        )
    eta = body["etas"][0] if eta is None else eta
    if eta not in body["etas"]:
        raise UserError(
            f"{evaluation.location} has no images at η = {eta:g}; it has {', '.join(f'{one:g}' for one in body['etas'])}",
            remedy=f"d3po ab start {evaluation.location} {' '.join(candidates)} --eta {body['etas'][0]:g}",
        )
    number = _number(evaluation, candidates, eta)
    if (plan := evaluation.blind_plan(number)) is None:
        pair, people, per_prompt = (candidates[0], candidates[1]), people or 1, per_prompt or 1
        plan = _new_plan(configuration, evaluation, body, pair, number, people, per_prompt, eta)
        plan = evaluation.create_blind_plan(number, plan)
    _refuse_other_numbers(evaluation, number, plan, body, people, per_prompt)
    blind = blind_of(evaluation, number)
    return blind if blind.project is not None else _show(configuration, evaluation, blind)


def blind_of(evaluation: Evaluation, number: int) -> Blind:
    """A blind comparison as it is written down.

    Raises:
        UserError: There is none of that number.
    """
    plan = evaluation.blind_plan(number)
    if plan is None:
        raise UserError(
            f"{evaluation.location} has no blind comparison {number}", remedy=f"d3po ab start {evaluation.location} A B"
        )
    pushed = json.loads(evaluation.read(blind_key(number, "push.json")) or b"{}")
    return Blind(
        number=number,
        candidates=tuple(plan["candidates"]),
        owners=plan["owners"],
        plan=PushPlan.from_json(plan["push_plan"]),
        prompts={id: comparison["prompt"] for id, comparison in plan["comparisons"].items()},
        people=plan["people"],
        project=pushed.get("project"),
        ls_tasks=pushed.get("ls_tasks", {}),
        url=pushed.get("url", ""),
    )


def _number(evaluation: Evaluation, candidates: tuple[str, ...], eta: float) -> int:
    """Of the comparison of these two at this η; the next one where there is none."""
    number = 0
    while (plan := evaluation.blind_plan(number)) is not None:
        if set(plan["candidates"]) == set(candidates) and plan["eta"] == eta:
            return number
        number += 1
    return number


def _refuse_other_numbers(
    evaluation: Evaluation, number: int, plan: dict[str, Any], body: dict[str, Any], people: int | None,
    per_prompt: int | None,
) -> None:  # fmt: skip
    settings = body["settings"]
    begun = (plan["people"], len(plan["comparisons"]) // len(settings["prompts"]))
    wanted = (people or begun[0], min(per_prompt or begun[1], settings["images_per_prompt"]))
    if wanted != begun:
        raise UserError(
            f"blind comparison {number} of {evaluation.location} was begun with {begun[0]} people and {begun[1]} images a "
            f"prompt, and is to have {wanted[0]} and {wanted[1]}: judgements of two designs are not added up",
            remedy="the same numbers again, or d3po evaluate under another --name, and compare there",
        )


def _new_plan(
    configuration: Configuration, evaluation: Evaluation, body: dict[str, Any], candidates: tuple[str, str],
    number: int, people: int, per_prompt: int, eta: float,
) -> dict[str, Any]:  # fmt: skip
    settings, labels = body["settings"], configuration.labels
    per_prompt = min(per_prompt, settings["images_per_prompt"])
    # What tells people how to mark a group's images means nothing over two of them.
    instructions = labels.instructions if labels.screen == "compare" else ""
    screen = compare_screen(pixelated=labels.pixelated, instructions=instructions)
    comparisons, owners, orders = {}, {}, {}
    for index, prompt in enumerate(settings["prompts"]):
        for image in group_of(index, prompt).trajectory_ids(per_prompt):
            id = f"c{len(comparisons):06d}"
            names = [secrets.token_hex(8) for _ in candidates]
            sides = generator("blind-sides", run_seed=configuration.seed, group=f"{body['id']}/{number}", image=image)
            orders[id] = tuple(names[side] for side in sides.permutation(2))
            owners |= dict(zip(names, candidates, strict=True))
            comparisons[id] = {"image": image, "prompt": prompt}
    return {
        "candidates": list(candidates),
        "eta": eta,
        "people": people,
        "comparisons": comparisons,
        "owners": owners,
        "push_plan": PushPlan(run_id=body["id"], epoch=number, screen=screen, orders=orders).to_json(),
    }


def _show(configuration: Configuration, evaluation: Evaluation, blind: Blind) -> Blind:
    """Import the comparisons, each once, and write down where they are."""
    written = evaluation.blind_plan(blind.number) or {}
    served, prefix = _place_images(configuration, evaluation, blind, written)
    client, key = connect(), f"{blind.plan.run_id}/{blind.plan.epoch}"
    project = client.ensure_project(
        key,
        title=f"{evaluation.name} · blind comparison {blind.number}",
        screen=blind.plan.screen,
        judgements_per_group=blind.people,
        media_path=str(served),
    )
    items = [
        task_data(
            blind.plan.screen,
            blind.plan.uid(id),
            written["comparisons"][id]["prompt"],
            [local_file_url(f"{prefix}/{name}.png") for name in order],
        )
        for id, order in blind.plan.orders.items()
    ]
    ls_tasks = client.import_exactly_once(project, items)
    pushed = {"project": project, "url": public_url(client.project_url(project)), "ls_tasks": ls_tasks}
    evaluation.write(blind_key(blind.number, "push.json"), json.dumps(pushed, indent=1).encode())
    logger().info("%d blind comparisons wait for people at %s", len(items), pushed["url"])
    return blind_of(evaluation, blind.number)


def _place_images(
    configuration: Configuration, evaluation: Evaluation, blind: Blind, written: dict[str, Any]
) -> tuple[Path, str]:
    """The images under their random names; the folder that Label Studio serves, and its path for addresses."""
    served, prefix = served_folder(
        configuration, f"{EVALUATIONS_FOLDER}/{evaluation.name}/{blind_key(blind.number, 'media')}"
    )
    served.mkdir(parents=True, exist_ok=True)
    parts = {name: _images(evaluation, name, written["eta"]) for name in blind.candidates}
    for id, order in blind.plan.orders.items():
        for name in order:
            data = evaluation.read_part(parts[blind.owners[name]], f"{written['comparisons'][id]['image']}.png")
            (served / f"{name}.png").write_bytes(data)
    return served, prefix


def _images(evaluation: Evaluation, candidate: str, eta: float) -> Part:
    part = evaluation.part(images_name(candidate, eta))
    if part is None:
        raise UserError(
            f"the images of {candidate} at η = {eta:g} in {evaluation.location} are missing or damaged",
            remedy="d3po evaluate with the same arguments makes them again",
        )
    return part
