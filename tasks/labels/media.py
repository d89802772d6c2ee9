"""An epoch's images where Label Studio's server finds them, under names that no attempt is part of.

A shard that is healed lies in another attempt's folder, and people who are judging must not notice. On a disk the
images are hard links and cost no space; of a run on S3 they are copies below the document root.
"""

import os
import shutil
from pathlib import Path

from storage.layout import IMAGES_FOLDER, MEDIA_FOLDER
from tasks.config import Configuration
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.label_studio.parse import PushPlan
from tasks.label_studio.screens import local_file_url
from tasks.labels.gold import GOLD_FOLDER

__all__ = ["media_folder", "served_folder", "show_gold", "show_images"]


def show_images(context: EpochContext) -> tuple[Path, dict[str, str]]:
    """Put every image of the epoch in its place, as it is committed now.

    Returns:
        The folder that Label Studio has to be allowed to serve, and trajectory id → address.
    """
    served, prefix = media_folder(context.configuration)
    folder = served / context.epoch_key / MEDIA_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    urls = {}
    numbers = context.epoch.commit_numbers()
    for name in context.plan["shards"]:
        # An epoch remembers the markers it has read, which name every image: a new one each time remembers one shard's.
        commit = context.epoch.read_commit(name, numbers[name][-1])
        images = context.epoch.fetch(commit, IMAGES_FOLDER)
        for image in (Path(file) for file in commit.files if file.startswith(f"{IMAGES_FOLDER}/")):
            _place(images / image.name, folder / image.name)
            urls[image.stem] = local_file_url(f"{prefix}/{context.epoch_key}/{MEDIA_FOLDER}/{image.name}")
    return served, urls


def show_gold(context: EpochContext, plan: PushPlan) -> dict[str, str]:
    """Put the images with known answers beside the epoch's; image id → address."""
    if not plan.gold:
        return {}
    served, prefix = media_folder(context.configuration)
    images = context.epoch.fetch(context.epoch.latest("push-plan"), GOLD_FOLDER)
    urls = {}
    for known in plan.gold.values():
        for image in known.order:
            _place(images / f"{image}.png", served / context.epoch_key / MEDIA_FOLDER / f"{image}.png")
            urls[image] = local_file_url(f"{prefix}/{context.epoch_key}/{MEDIA_FOLDER}/{image}.png")
    return urls


def media_folder(configuration: Configuration) -> tuple[Path, str]:
    """The run's folder as Label Studio's disk shows it, and its path below the document root; see ``served_folder``."""
    return served_folder(configuration, configuration.run)


def served_folder(configuration: Configuration, below: str) -> tuple[Path, str]:
    """A folder below the storage root as Label Studio's disk shows it, and its path below the document root.

    Args:
        configuration: Says where the runs lie, and what Label Studio serves.
        below: The folder's path within the storage root; of one on S3, within the mirror.

    Raises:
        UserError: It does not lie below the document root, or (of a run on S3) no document root is given.
    """
    given = configuration.labels.document_root or os.environ.get("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT")
    storage = configuration.storage.root
    if storage.startswith("s3://"):
        if not given:
            raise UserError(
                f"the images of {run_folder(configuration)} lie on S3, and no folder is given to mirror them in",
                remedy="set labels.document_root to Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
            )
        return Path(given).resolve() / below, below
    root, folder = Path(given or storage).resolve(), Path(storage).resolve() / below
    if not folder.is_relative_to(root) or folder == root:
        raise UserError(
            f"the images lie in {folder}, expected a folder below Label Studio's document root {root}",
            remedy="set labels.document_root, or start Label Studio with that document root",
        )
    return folder, folder.relative_to(root).as_posix()


def _place(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_suffix(f".{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another file system
        shutil.copyfile(source, temporary)
    temporary.replace(target)
