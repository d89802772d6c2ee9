"""Show an epoch's groups to people: presentation orders committed first, then imported exactly once."""

import json
import os
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from d3po_core.noise import generator
from storage.layout import IMAGES_FOLDER
from tasks.config import Configuration
from tasks.connection import connect, public_url
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.label_studio.parse import PushPlan
from tasks.label_studio.screens import Screen, compare_screen, local_file_url, mark_screen, task_data
from tasks.log import logger

__all__ = ["import_comparisons", "push", "push_plan", "pushed", "screen_of"]

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
    plan, screen = push_plan(context), screen_of(context.configuration)
    media, prefix = _media_folder(context)
    client = connect()
    project = client.ensure_project(
        context.uid_prefix,
        title=f"{context.configuration.run} · epoch {context.number}",
        screen=screen,
        judgements_per_group=context.configuration.labels.judgements_per_group,
        media_path=str(media),
    )
    groups = context.groups()
    urls = _image_urls(context, prefix)
    items = [
        task_data(screen, plan.uid(group_id), groups[group_id].prompt, [urls[trajectory] for trajectory in order])
        for group_id, order in plan.orders.items()
    ]
    ls_tasks = client.import_exactly_once(project, items)
    attempt = epoch.begin("push")
    body = {
        "format": PUSH_FORMAT,
        "project": project,
        "url": public_url(client.project_url(project)),
        "ls_tasks": ls_tasks,
    }
    (attempt.path / "push.json").write_text(json.dumps(body, indent=1))
    epoch.commit(attempt, {"project": project, "comparisons": len(items)}, supersede=supersede)
    logger().info("%d comparisons wait for people at %s", len(items), body["url"])


def push_plan(context: EpochContext) -> PushPlan:
    """The presentation orders, drawn from the run seed and committed before anything is imported."""
    epoch = context.epoch
    if epoch.latest("push-plan") is None:
        screen = screen_of(context.configuration)
        size = context.configuration.sampling.group_size
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
        )
        attempt = epoch.begin("push-plan")
        (attempt.path / "push-plan.json").write_text(json.dumps(plan.to_json(), indent=1))
        epoch.commit(attempt)
    return PushPlan.from_json(json.loads(epoch.fetch(epoch.latest("push-plan"), "push-plan.json").read_text()))


def pushed(context: EpochContext) -> dict:
    """The committed push: ``project``, ``url`` and ``ls_tasks`` (uid → Label Studio task numbers)."""
    return json.loads(context.epoch.fetch(context.epoch.latest("push"), "push.json").read_text())


def screen_of(configuration: Configuration) -> Screen:
    """The screen that the configuration asks for.

    Raises:
        ValueError: It cannot be shown, e.g. more images than there are hotkeys.
    """
    labels = configuration.labels
    if labels.screen == "compare":
        return compare_screen(pixelated=labels.pixelated, instructions=labels.instructions)
    return mark_screen(
        configuration.sampling.group_size,
        choice=labels.mark_choice,
        pixelated=labels.pixelated,
        instructions=labels.instructions,
    )


def _image_urls(context: EpochContext, prefix: str) -> dict[str, str]:
    """Trajectory id → the address under which Label Studio serves its image."""
    urls = {}
    for name in context.plan["shards"]:
        commit = context.epoch.latest(name)
        for file in commit.files:
            if file.startswith(f"{IMAGES_FOLDER}/"):
                urls[Path(file).stem] = local_file_url(f"{prefix}/{context.epoch_key}/{commit.folder}/{file}")
    return urls


def _media_folder(context: EpochContext) -> tuple[Path, str]:
    """The run's folder as Label Studio's disk shows it, and its path below the document root.

    Images of a run on S3 are mirrored there first.
    """
    configuration = context.configuration
    local_root = configuration.storage.root if context.run.has_lock else None
    root = Path(
        configuration.labels.document_root
        or os.environ.get("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT")
        or local_root
        or ""
    ).resolve()
    if local_root is None:
        if not (configuration.labels.document_root or os.environ.get("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT")):
            raise UserError(
                f"the images of {run_folder(configuration)} lie on S3, and no folder is given to mirror them in",
                remedy="set labels.document_root to Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
            )
        _mirror_images(context, root / configuration.run)
        return root / configuration.run, configuration.run
    media = Path(local_root).resolve() / configuration.run
    if not media.is_relative_to(root) or media == root:
        raise UserError(
            f"the images lie in {media}, expected a folder below Label Studio's document root {root}",
            remedy="set labels.document_root, or start Label Studio with that document root",
        )
    return media, media.relative_to(root).as_posix()


def _mirror_images(context: EpochContext, folder: Path) -> None:
    epoch = context.epoch
    for name in context.plan["shards"]:
        commit = epoch.latest(name)
        for file in commit.files:
            if file.startswith(f"{IMAGES_FOLDER}/"):
                target = folder / context.epoch_key / commit.folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(epoch.fetch(commit, file).read_bytes())
