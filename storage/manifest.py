"""The seal of an epoch: what it computed, what that lies in, and the parent that it continues."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from storage import layout
from storage.documents import digest_of, now, sha256
from storage.epoch import SEAL_FORMAT, Epoch
from storage.errors import MissingDataError, StorageError
from storage.events import event_keys
from storage.seals import epoch_content
from storage.verify import Finding, verify_epoch

__all__ = ["Finding", "build_seal", "environment", "epoch_content", "verify_epoch"]

_PACKAGES = (
    "d3po-pipeline", "accelerate", "diffusers", "label-studio-sdk", "numpy", "obstore", "pandas", "peft", "pillow",
    "prefect", "pyarrow", "safetensors", "tokenizers", "torch", "transformers", "zarr",
)  # fmt: skip


def build_seal(epoch: Epoch, environment: Mapping[str, Any], **record: Any) -> dict[str, Any]:
    """The body of an epoch's seal, for ``Epoch.create_seal``. Every committed file is verified on the way.

    Args:
        epoch: An epoch with a plan, all of whose outputs are committed; its parent is sealed.
        environment: Versions and devices, e.g. from ``environment()``.
        record: What else to keep in the ``record`` part, as JSON: people by number, Label Studio's ids, counts.

    Returns:
        ``content``, which two runs that computed the same share; ``record``, which is this run's own; and ``digest``,
        that of the content.

    Raises:
        StorageError: There is no plan, the parent is not sealed, or something committed is missing or corrupt.
    """
    # Checkpoints are no results: what they led to is in `train`, and a damaged one of an old attempt hinders nobody.
    commits = epoch.latest_all(name for name in epoch.commit_numbers() if not layout.is_checkpoint(name))
    for commit in commits.values():
        if commit.files:
            epoch.fetch(commit)
    parent, parent_digest = _parent(epoch)
    content = epoch_content(commits, parent_digest)
    own_record = {
        "run": epoch.run.name,
        "run_id": epoch.run.run_id,
        "epoch": epoch.number,
        "sealed_at": now(),
        "plan": sha256(_plan_bytes(epoch)),
        "run_file": sha256(epoch.run.backend.get(layout.RUN_FILE)),
        "parent": parent,
        "commits": {name: {"number": commit.number, "digest": commit.digest} for name, commit in commits.items()},
        "events": {kind: _event_digests(epoch, kind) for kind in layout.EVENT_KINDS},
        "environment": dict(environment),
    }
    return {"format": SEAL_FORMAT, "content": content, "digest": digest_of(content), "record": {**record, **own_record}}


def environment() -> dict[str, Any]:
    """Versions of Python, the system, the packages that results depend on, and the code's commit where it is known."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": packages,
        "code": _code_commit(),
    }


def _parent(epoch: Epoch) -> tuple[dict[str, Any] | None, str | None]:
    """The parent's number and the sha256 of its seal, and the digest of its content; None twice for a first epoch."""
    if not any(number < epoch.number for number in epoch.run.epochs()):
        return None, None
    parent = epoch.run.epoch(epoch.number - 1)
    seal = parent.seal()
    if seal is None:
        raise StorageError(
            f"{epoch} cannot be sealed: its parent, epoch {parent.number}, is not",
            f"d3po status {epoch.run.location}",
        )
    return {"epoch": parent.number, "sha256": sha256(parent.run.backend.get(f"{parent.key}/{layout.SEAL}"))}, seal[
        "digest"
    ]


def _plan_bytes(epoch: Epoch) -> bytes:
    if epoch.plan() is None:
        raise MissingDataError(f"{epoch} has no {layout.PLAN}", "d3po run CONFIG")
    return epoch.run.backend.get(f"{epoch.key}/{layout.PLAN}")


def _event_digests(epoch: Epoch, kind: str) -> list[str]:
    return [sha256(epoch.run.backend.get(key)) for key in event_keys(epoch.run, epoch.number, kind)]


def _code_commit() -> str | None:
    """The git commit that this code was checked out from; None where it was installed."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
