"""Whether everything committed is still what was committed: an epoch's seal, plan, markers and files, and its parents.

Reads everything again, past all caches. Findings are yielded as they are met, the nearest to the seal first.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from storage import layout
from storage.commits import Commit
from storage.documents import digest_of, sha256
from storage.epoch import Epoch
from storage.errors import MissingDataError, StorageError
from storage.events import event_keys, read_events
from storage.seals import epoch_content

__all__ = ["Finding", "damage", "verify_epoch"]

Kind = Literal["missing", "corrupt", "changed", "pruned", "healed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that an audit has to say."""

    kind: Kind
    """``missing``, ``corrupt``, ``changed`` (whole, but not what was sealed), ``pruned`` or ``healed``."""
    epoch: int
    name: str
    """The commit's name; ``plan``, ``seal``, ``parent``, ``content``, ``bindings`` … for the epoch's own records."""
    file: str | None
    """The file, within the epoch's folder; None where it is about more than one."""
    message: str
    """What was expected and what was found."""
    remedy: str
    """The next command."""

    @property
    def broken(self) -> bool:
        """Whether something is wrong, as opposed to done on purpose."""
        return self.kind not in ("pruned", "healed")

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}\n  next: {self.remedy}"


def verify_epoch(epoch: Epoch, parents: bool = True) -> Iterator[Finding]:
    """Verify an epoch, sealed or not: seal, plan, events, every marker's chain, every file; then its parents.

    Args:
        epoch: Where to begin.
        parents: Also verify the epochs that it continues, all the way.

    Yields:
        What was found; nothing where all is well.
    """
    epoch = Epoch(epoch.run, epoch.number)  # without what the caller's object remembers
    seal, broken_seal = _read_seal(epoch)
    if broken_seal is not None:
        yield broken_seal
    record = seal["record"] if seal else {}
    yield from _verify_run_file(epoch, record)
    yield from _verify_plan(epoch, record)
    for kind in layout.EVENT_KINDS:
        yield from _verify_events(epoch, kind, record)
    sealed, numbers = record.get("commits", {}), epoch.commit_numbers()
    for name in _results(numbers, sealed):
        yield from _verify_name(epoch, name, numbers.get(name, []), sealed.get(name))
    if seal is not None:
        yield from _verify_content(epoch, seal)
        yield from _verify_parent(epoch, seal)
    if parents and epoch.number > 0 and epoch.number - 1 in epoch.run.epochs():
        yield from verify_epoch(epoch.run.epoch(epoch.number - 1))


def damage(epoch: Epoch) -> dict[str, list[Finding]]:
    """What is wrong with the commits that count, by name: their markers and their files, past all caches."""
    epoch = Epoch(epoch.run, epoch.number)
    seal, _ = _read_seal(epoch)
    sealed = seal["record"]["commits"] if seal else {}
    numbers = epoch.commit_numbers()
    found: dict[str, list[Finding]] = {}
    for name in _results(numbers, sealed):
        top = max(numbers.get(name, [0]))
        if top < sealed.get(name, {}).get("number", 0):
            found[name] = [_lost_marker(epoch, name, sealed[name])]
        elif problems := [finding for finding in _verify_latest(epoch, name, top) if finding.broken]:
            found[name] = problems
    return found


def _read_seal(epoch: Epoch) -> tuple[dict[str, Any] | None, Finding | None]:
    try:
        seal = epoch.seal()
    except StorageError as error:
        return None, _finding(epoch, error, "seal", layout.SEAL)
    if seal is not None and digest_of(seal["content"]) != seal["digest"]:
        message = f"{layout.SEAL} of {epoch}: expected content {seal['digest']}, found {digest_of(seal['content'])}"
        return None, _own(epoch, "corrupt", "seal", layout.SEAL, message)
    return seal, None


def _results(numbers: Iterable[str], sealed: Iterable[str]) -> list[str]:
    """Checkpoints are no results: a training that meets a damaged one goes on from an earlier one."""
    return sorted(name for name in {*numbers, *sealed} if not layout.is_checkpoint(name))


def _verify_run_file(epoch: Epoch, record: dict[str, Any]) -> Iterator[Finding]:
    """run.json holds the run seed, T, η, w and the model's digest, on which every number rests."""
    expected = record.get("run_file")
    found = sha256(epoch.run.backend.get(layout.RUN_FILE))
    if expected is not None and found != expected:
        message = f"{layout.RUN_FILE} of run {epoch.run.name} is not the one that {epoch} was sealed with"
        message += f": expected sha256 {expected}, found {found}"
        remedy = f"restore {epoch.run.location}/{layout.RUN_FILE} from a backup, then d3po audit {epoch.run.location}"
        yield Finding(
            kind="changed", epoch=epoch.number, name="run", file=layout.RUN_FILE, message=message, remedy=remedy
        )


def _verify_plan(epoch: Epoch, record: dict[str, Any]) -> Iterator[Finding]:
    try:
        plan = epoch.plan()
    except StorageError as error:
        yield _finding(epoch, error, "plan", layout.PLAN)
        return
    if plan is None:
        if record or epoch.commit_numbers():
            yield _own(epoch, "missing", "plan", layout.PLAN, f"{epoch} has outputs and no {layout.PLAN}")
        return
    found = sha256(epoch.run.backend.get(f"{epoch.key}/{layout.PLAN}"))
    if record and found != record["plan"]:
        message = f"{layout.PLAN} of {epoch} is not the sealed one: expected sha256 {record['plan']}, found {found}"
        yield _own(epoch, "changed", "plan", layout.PLAN, message)


def _verify_events(epoch: Epoch, kind: str, record: dict[str, Any]) -> Iterator[Finding]:
    try:
        read_events(epoch.run, epoch.number, kind)
    except StorageError as error:
        yield _finding(epoch, error, kind, None)
        return
    found = {sha256(epoch.run.backend.get(key)) for key in event_keys(epoch.run, epoch.number, kind)}
    for number, expected in enumerate(record.get("events", {}).get(kind, []), start=1):
        if expected not in found:
            file = f"{kind}/{number:06d}.json"
            message = f"{file} of {epoch} is not the sealed one, or is gone: expected sha256 {expected}"
            yield _own(epoch, "changed", kind, file, message)


def _verify_name(epoch: Epoch, name: str, numbers: list[int], sealed: dict[str, Any] | None) -> Iterator[Finding]:
    """The files of the commit that counts, and the chain of markers down to the first."""
    top = max(numbers, default=0)
    if sealed is not None and top < sealed["number"]:
        yield _lost_marker(epoch, name, sealed)
        return
    yield from _verify_latest(epoch, name, top)
    successor = _readable(epoch, name, top)
    for number in range(top, 0, -1):
        digest = None
        if number in numbers:
            digest = sha256(epoch.run.backend.get(layout.commit_key(epoch.number, name, number)))
        yield from _verify_link(epoch, name, number, digest, successor if number < top else None, sealed)
        successor = _readable(epoch, name, number) if number in numbers else None


def _verify_link(
    epoch: Epoch, name: str, number: int, digest: str | None, successor: Commit | None, sealed: dict[str, Any] | None
) -> Iterator[Finding]:
    """One marker against what its successor and the seal say of it."""
    file = f"commits/{name}.{number}.json"
    if successor is not None and successor.replaces_lost and digest != successor.previous:
        message = f"{file} of {epoch} is lost; commit {successor.number} replaced it, on {successor.time}"
        yield _own(epoch, "healed", name, file, message)
        return
    if digest is None:
        yield _own(epoch, "missing", name, file, f"{file} of {epoch} is gone, and a later commit counts on it")
        return
    expected = {successor.previous} if successor is not None else set()
    if sealed is not None and sealed["number"] == number:
        expected.add(sealed["digest"])
    if wrong := expected - {digest}:
        message = f"{file} of {epoch} is not the one that was superseded or sealed"
        yield _own(epoch, "changed", name, file, f"{message}: expected sha256 {wrong.pop()}, found {digest}")


def _verify_latest(epoch: Epoch, name: str, number: int) -> Iterator[Finding]:
    """The marker that counts and each of its files."""
    try:
        commit = epoch.read_commit(name, number)
    except StorageError as error:
        yield _finding(epoch, error, name, f"commits/{name}.{number}.json")
        return
    if commit.pruned:
        message = f"{len(commit.pruned)} files of {name} in {epoch} were pruned {commit.pruning}"
        yield _own(epoch, "pruned", name, None, message)
    checked = epoch.run.each(lambda path: _verify_file(epoch, commit, path), commit.files)
    yield from (finding for finding in checked if finding is not None)


def _verify_file(epoch: Epoch, commit: Commit, path: str) -> Finding | None:
    file = f"{commit.folder}/{path}"
    try:
        epoch.run.files.check(
            f"{epoch.key}/{file}", commit.files[path], epoch.describe(commit, path), epoch.heal_command
        )
    except StorageError as error:
        return _finding(epoch, error, commit.name, file)
    return None


def _verify_content(epoch: Epoch, seal: dict[str, Any]) -> Iterator[Finding]:
    """What the commits that count say they computed, against the seal."""
    sealed = seal["record"]["commits"]
    try:
        commits = epoch.latest_all(sealed)
    except (StorageError, KeyError):
        return  # reported with the marker
    found = digest_of(epoch_content(commits, seal["content"]["parent"]))
    if found != seal["digest"]:
        message = (
            f"What is committed in {epoch} is not what was sealed: expected content {seal['digest']}, found {found}"
        )
        yield _own(epoch, "changed", "content", None, message)


def _verify_parent(epoch: Epoch, seal: dict[str, Any]) -> Iterator[Finding]:
    """The link from a seal to the seal before it."""
    link = seal["record"]["parent"]
    if link is None:
        return
    parent = epoch.run.epoch(link["epoch"])
    file = f"{parent.key}/{layout.SEAL}"
    try:
        found = sha256(epoch.run.backend.get(file))
        parent_seal = parent.seal() or {}
    except MissingDataError:
        yield _own(
            epoch,
            "missing",
            "parent",
            file,
            f"The seal that {epoch} continues is gone: expected sha256 {link['sha256']}",
        )
        return
    except StorageError as error:
        yield _finding(epoch, error, "parent", file)
        return
    if found != link["sha256"]:
        message = (
            f"{epoch} continues another seal of epoch {parent.number}: expected sha256 {link['sha256']}, found {found}"
        )
        yield _own(epoch, "changed", "parent", file, message)
    elif parent_seal.get("digest") != seal["content"]["parent"]:
        message = (
            f"{epoch} continues other content of epoch {parent.number}: expected {seal['content']['parent']}, "
            f"found {parent_seal.get('digest')}"
        )
        yield _own(epoch, "changed", "parent", file, message)


def _readable(epoch: Epoch, name: str, number: int) -> Commit | None:
    try:
        return epoch.read_commit(name, number)
    except StorageError:
        return None


def _lost_marker(epoch: Epoch, name: str, sealed: dict[str, Any]) -> Finding:
    file = f"commits/{name}.{sealed['number']}.json"
    message = f"{file} of {epoch} is gone: expected sha256 {sealed['digest']} (it is in the seal), found nothing"
    return Finding(kind="missing", epoch=epoch.number, name=name, file=file, message=message, remedy=epoch.heal_command)


def _finding(epoch: Epoch, error: StorageError, name: str, file: str | None) -> Finding:
    """An error met while reading, as a finding."""
    kind: Kind = "missing" if isinstance(error, MissingDataError) else "corrupt"
    remedy = error.remedy or f"d3po audit {epoch.run.location}"
    return Finding(kind=kind, epoch=epoch.number, name=name, file=file, message=error.message, remedy=remedy)


def _own(epoch: Epoch, kind: Kind, name: str, file: str | None, message: str) -> Finding:
    """A finding on the epoch's own records, which cannot be computed again."""
    remedy = f"restore it from a backup of {epoch.run.location}/{epoch.key}, then d3po audit {epoch.run.location}"
    if kind in ("pruned", "healed"):
        remedy = "nothing: this was done on purpose"
    return Finding(kind=kind, epoch=epoch.number, name=name, file=file, message=message, remedy=remedy)
