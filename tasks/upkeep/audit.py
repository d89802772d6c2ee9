"""Pull the thread: from an adapter to its seal, to every commit, judgement and seed behind it, epoch by epoch.

``audit`` stops at the first thing that does not agree, by raising what names it.
"""

from collections.abc import Iterator
from pathlib import Path

from storage.errors import MissingDataError
from storage.manifest import verify_epoch
from storage.run import Run
from storage.tables import GROUPS, JUDGEMENTS, PAIRS, read_rows
from tasks.config import Configuration
from tasks.context import EpochContext, found_run, planned_context, run_folder
from tasks.errors import UserError
from tasks.exchange.provenance import ADAPTER_FILE, file_digest, provenance_of
from tasks.labels.voided import VOIDS, voided

__all__ = ["audit"]


def audit(what: str, moved_to: str | None = None) -> Iterator[str]:
    """Verify a run, or the run behind an exported adapter; yields what agrees, a line each.

    Args:
        what: A run's folder, or an adapter's with its ``provenance.json``.
        moved_to: Where the adapter's run lies now, if it was moved since the export.

    Raises:
        StorageError: A digest, a file or a link of the chain that does not agree.
        UserError: No run, no sealed epoch, or an adapter that is not its run's.
    """
    record = provenance_of(Path(what))
    if record is None:
        configuration, run = found_run(what)
        contexts = [planned_context(configuration, run, number) for number in run.epochs()]
    else:
        configuration, run = _run_of(what, moved_to or record["run_folder"])
        contexts = [planned_context(configuration, run, number) for number in run.epochs() if number <= record["epoch"]]
        yield from _adapter(contexts[-1], Path(what), record)
    sealed = [context for context in contexts if context.epoch.seal() is not None]
    if not sealed:
        raise UserError(f"{what} has no sealed epoch to audit", remedy=f"d3po status {what}")
    for context in sealed:
        yield from _epoch(context)


def _run_of(adapter: str, folder: str) -> tuple[Configuration, Run]:
    try:
        return found_run(folder)
    except MissingDataError:
        raise UserError(
            f"the adapter in {adapter} was exported from the run in {folder}, and there is no run",
            remedy=f"d3po audit {adapter} --moved-to FOLDER, where that run lies now",
        ) from None


def _adapter(context: EpochContext, folder: Path, record: dict) -> Iterator[str]:
    seal = context.epoch.seal()
    if file_digest(folder) != record["sha256"]:
        raise UserError(
            f"{folder / ADAPTER_FILE} is not the file that was exported: expected sha256 {record['sha256']}, found "
            f"{file_digest(folder)}",
            remedy="do not use this adapter; d3po export writes the run's own",
        )
    from tasks.exchange.export import lora_digest  # needs torch, which a run's own audit does not

    found = {
        "run_id": context.run.info["run_id"],
        "content_digest": seal["digest"] if seal else None,
        "lora": lora_digest(context, folder),
    }
    for field, value in found.items():
        if record[field] != value:
            raise UserError(
                f"the adapter in {folder} says {field} {record[field]}, found {value} in {run_folder(context.configuration)}",
                remedy="do not use this adapter; d3po export writes the run's own",
            )
    yield f"{folder}: the adapter of epoch {context.number} of {run_folder(context.configuration)}, seal {seal['digest']}"


def _epoch(context: EpochContext) -> Iterator[str]:
    epoch = context.epoch
    for finding in verify_epoch(epoch, parents=False):
        if finding.broken:
            raise UserError(f"{finding.kind}: {finding.message}", remedy=finding.remedy)
        yield str(finding)
    judgements = read_rows(epoch.fetch(epoch.latest("pull"), "judgements.parquet"), JUDGEMENTS)
    pairs = read_rows(epoch.fetch(epoch.latest("train-plan"), "pairs.parquet"), PAIRS)
    seeds = [
        row
        for name in context.plan["shards"]
        for row in read_rows(epoch.fetch(epoch.latest(name), "groups.parquet"), GROUPS)
    ]
    lost = voided(context)
    counted = [row for row in judgements if row["group_id"] not in lost]
    judged = {row["group_id"] for row in counted}
    orphans = [pair["group_id"] for pair in pairs if pair["group_id"] not in judged]
    if orphans:
        raise UserError(
            f"epoch {context.number} trained on pairs of {orphans[0]}, which nobody judged, or which was voided",
            remedy=f"do not use this adapter; d3po status {run_folder(context.configuration)}",
        )
    if (origin := epoch.latest("forked")) is not None:
        yield (
            f"epoch {context.number}: pictures and judgements are those of epoch {origin.details['epoch']} of run "
            f"{origin.details['run']} ({origin.details['run_id']}, content {origin.details['content_digest'] or 'not sealed'})"
        )
    for note in epoch.notes(VOIDS):
        yield (
            f"epoch {context.number}: {len(note['groups'])} groups no longer count, by {note['by']}, {note['time']}: "
            f"{note['reason']}"
        )
    yield (
        f"epoch {context.number}: {len(pairs)} pairs from {len(counted)} judgements by "
        f"{len({row['judge'] for row in counted})} judges, over {len(seeds)} {_origin(context)}"
    )
    for row in judgements:
        mark = ", voided" if row["group_id"] in lost else ""
        yield f"  {row['group_id']} {row['verdict']:>10} by {row['judge']} ({row['id']}, {row['updated_at']}){mark}"


def _origin(context: EpochContext) -> str:
    """Where the epoch's images come from."""
    imported = context.plan.get("imported")
    if imported is None:
        return "trajectories with their seeds"
    return f"images imported from {imported['file']} (sha256 {imported['sha256']})"
