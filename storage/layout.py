"""Every path of a run's folder, and only here. Keys are relative to the run and have ``/`` on every system.

Does no I/O. The tree is drawn in the design document, under "On disk".
"""

import re
from pathlib import Path

__all__ = [
    "EVALUATIONS_FOLDER",
    "EVALUATION_FILE",
    "EVENT_KINDS",
    "GROUPS_FILE",
    "IMAGES_FOLDER",
    "LOCKS_FOLDER",
    "MEDIA_FOLDER",
    "PLAN",
    "PROMPTS_FILE",
    "RUN_FILE",
    "SEAL",
    "STAGING_FOLDER",
    "TRAJECTORIES_FILE",
    "blind_key",
    "check_aside_key",
    "check_attempt_folder",
    "check_commit_name",
    "check_relative",
    "check_run_name",
    "commit_key",
    "commits_prefix",
    "epoch_key",
    "evaluation_location",
    "event_key",
    "events_prefix",
    "heal_command",
    "is_attempt_file",
    "is_checkpoint",
    "locate",
    "output_folder",
    "parse_commit_key",
    "parse_epoch",
    "parse_event_key",
    "remedy_for",
    "report_key",
    "run_location",
    "shard_name",
    "training_of_checkpoint",
]

RUN_FILE = "run.json"
PLAN = "plan.json"
SEAL = "EPOCH.json"
STAGING_FOLDER = ".staging"
LOCKS_FOLDER = ".locks"
TRAJECTORIES_FILE = "traj.zarr"
PROMPTS_FILE = "prompts.zarr"
GROUPS_FILE = "groups.parquet"
IMAGES_FOLDER = "images"
MEDIA_FOLDER = "media"
EVALUATIONS_FOLDER = "evaluations"
EVALUATION_FILE = "settings.json"

EVENT_KINDS = ("bindings", "proceed", "voids", "notices", "forgotten")
"""The numbered files of an epoch: who works on it, who said to go on, which groups no longer count, what the team was
told, whose name was erased (by number)."""

_ASIDE = ("labels/people.parquet", "report/", "adapter/")
_RECORDS = frozenset({"commits", "report", "adapter", MEDIA_FOLDER, *EVENT_KINDS})
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_COMMIT_FILE = re.compile(r"(?P<name>[a-z0-9-]+)\.(?P<number>[1-9][0-9]*)\.json")
_CHECKPOINT = re.compile(r"checkpoint-(?P<training>[0-9a-f]{8})-(?P<step>[0-9]+)")
_LABELS = frozenset({"push-plan", "push", "pull"})


def check_run_name(name: str) -> str:
    """The name itself, if it can be a folder's name everywhere.

    Raises:
        ValueError: It is empty, hidden or has other characters than letters, digits, dot, dash and underscore.
    """
    if not _RUN_NAME.fullmatch(name):
        raise ValueError(
            f"A run's name is letters, digits, '.', '-' and '_', starting with a letter or digit; got {name!r}"
        )
    return name


def check_commit_name(name: str) -> str:
    """The name itself, if it can name a commit (``shard-000017``).

    Raises:
        ValueError: It has other characters than lower-case letters, digits and single dashes.
    """
    if not _COMMIT_NAME.fullmatch(name):
        raise ValueError(f"A commit's name is lower-case letters and digits joined by '-'; got {name!r}")
    return name


def check_relative(path: str) -> str:
    """The path itself, if it stays below the folder that it is relative to and has one spelling.

    Raises:
        ValueError: It is absolute, empty, or has empty, ``.`` or ``..`` parts or a backslash.
    """
    if any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path:
        raise ValueError(f"Expected a relative path without '.', '..' and empty parts; got {path!r}")
    return path


def check_aside_key(key: str) -> str:
    """The key itself, if it lies among an epoch's derived or erasable files.

    Raises:
        ValueError: It would touch something that is committed or counted.
    """
    check_relative(key)
    if not any(key == allowed or (allowed.endswith("/") and key.startswith(allowed)) for allowed in _ASIDE):
        raise ValueError(f"Only {', '.join(_ASIDE)} may be written outside a commit; got {key!r}")
    return key


def check_attempt_folder(folder: str) -> str:
    """The folder itself, if an attempt may be moved there: not among the markers, records or numbered files.

    Raises:
        ValueError: It is not a relative path or belongs to the epoch's own records.
    """
    check_relative(folder)
    top = folder.split("/")[0]
    if top in _RECORDS or top.startswith(".") or top.endswith(".json"):
        raise ValueError(f"No attempt may lie in {folder!r}: {top!r} is kept for the epoch's own records")
    return folder


def is_attempt_file(key: str) -> bool:
    """Whether a key within an epoch (``shards/000017-ab12cd34/groups.parquet``) is where attempts lie."""
    top, _, rest = key.partition("/")
    return bool(rest) and top not in _RECORDS and key not in _ASIDE


def run_location(root: str, name: str) -> str:
    """Where a run lies: its name below a local folder or an ``s3://bucket/prefix``."""
    return f"{root.rstrip('/')}/{check_run_name(name)}"


def evaluation_location(root: str, name: str) -> str:
    """Where an evaluation lies: beside the runs, below ``evaluations``."""
    return f"{root.rstrip('/')}/{EVALUATIONS_FOLDER}/{check_run_name(name)}"


def blind_key(number: int, file: str) -> str:
    """``blind/0000/plan.json``: a file of one blind comparison, within its evaluation."""
    return f"blind/{number:04d}/{check_relative(file)}"


def report_key(file: str) -> str:
    """``report/report.html``: a file of the run's report over all epochs."""
    return f"report/{check_relative(file)}"


def epoch_key(number: int) -> str:
    """``epochs/0003``."""
    if number < 0:
        raise ValueError(f"An epoch's number is 0 or more; got {number}")
    return f"epochs/{number:04d}"


def parse_epoch(folder: str) -> int | None:
    """The number in ``0003``; None for any other folder's name."""
    return int(folder) if re.fullmatch(r"[0-9]{4,}", folder) else None


def shard_name(index: int) -> str:
    """``shard-000017``."""
    return f"shard-{index:06d}"


def output_folder(name: str, attempt: str, folder: str | None = None) -> str:
    """Where an attempt's files lie within its epoch.

    Args:
        name: The commit's name.
        attempt: The attempt's id, which makes the folder its own.
        folder: Where to put it instead of the place that belongs to the name; the attempt's id is appended.
    """
    if folder is not None:
        return check_attempt_folder(f"{folder.rstrip('/')}-{attempt}")
    if name.startswith("shard-"):
        return f"shards/{name.removeprefix('shard-')}-{attempt}"
    if name in _LABELS:
        return f"labels/{name}-{attempt}"
    if name == "train-plan":
        return f"training/{attempt}"
    if checkpoint := _CHECKPOINT.fullmatch(name):
        return f"training/{checkpoint['training']}/checkpoint-{checkpoint['step']}-{attempt}"
    return check_attempt_folder(f"{name}-{attempt}")


def commits_prefix(epoch: int) -> str:
    """``epochs/0003/commits``."""
    return f"{epoch_key(epoch)}/commits"


def commit_key(epoch: int, name: str, number: int) -> str:
    """``epochs/0003/commits/shard-000017.1.json``."""
    return f"{commits_prefix(epoch)}/{check_commit_name(name)}.{number}.json"


def is_checkpoint(name: str) -> bool:
    """Whether a commit is a training's checkpoint: scaffolding, of which no seal speaks."""
    return _CHECKPOINT.fullmatch(name) is not None


def training_of_checkpoint(name: str) -> str | None:
    """The training attempt that a commit is a checkpoint of; None where it is none."""
    match = _CHECKPOINT.fullmatch(name)
    return match["training"] if match else None


def parse_commit_key(key: str) -> tuple[str, int] | None:
    """Name and number of a marker; None for a file that is none."""
    match = _COMMIT_FILE.fullmatch(key.rpartition("/")[2])
    return (match["name"], int(match["number"])) if match else None


def events_prefix(epoch: int, kind: str) -> str:
    """``epochs/0003/bindings``."""
    if kind not in EVENT_KINDS:
        raise ValueError(f"Expected one of {', '.join(EVENT_KINDS)}; got {kind!r}")
    return f"{epoch_key(epoch)}/{kind}"


def event_key(epoch: int, kind: str, number: int) -> str:
    """``epochs/0003/bindings/000001.json``."""
    return f"{events_prefix(epoch, kind)}/{number:06d}.json"


def parse_event_key(key: str) -> int | None:
    """The number of ``…/000001.json``; None for a file that is none."""
    match = re.fullmatch(r"([0-9]{6,})\.json", key.rpartition("/")[2])
    return int(match[1]) if match else None


def heal_command(location: str, epoch: int) -> str:
    """What an operator types to have a run's broken data made again."""
    return f"d3po heal {location} --epoch {epoch}"


def locate(path: Path) -> tuple[str, int] | None:
    """The run's folder and the epoch that a local file belongs to, from its path alone; None outside of any."""
    parts = path.absolute().parts
    for at in range(len(parts) - 2, 0, -1):
        if parts[at] == "epochs" and (epoch := parse_epoch(parts[at + 1])) is not None:
            return str(Path(*parts[:at])), epoch
    return None


def remedy_for(path: Path) -> str:
    """The command that heals a local file, as precisely as its path tells."""
    found = locate(path)
    return heal_command(*found) if found else "d3po audit RUN, then d3po heal RUN --epoch N"
