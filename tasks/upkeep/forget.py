"""A person's name and e-mail address out of a run's folder, on request; their judgements stay, by number.

Only ``people.parquet`` holds names, and it lies outside every digest: seals, digests and audits stay valid. That it was
done is written down by number, and later pulls leave the name out.
"""

import tempfile
from pathlib import Path

from storage.run import Run
from storage.tables import PEOPLE, read_rows, write_table

__all__ = ["PEOPLE_FILE", "forget", "forgotten"]

PEOPLE_FILE = "labels/people.parquet"
_KIND = "forgotten"


def forget(run: Run, user: int) -> list[int]:
    """Erase a person's name and e-mail address from all epochs of a run.

    Args:
        run: The run.
        user: Label Studio's number of the person.

    Returns:
        The epochs that held them.
    """
    held = [number for number in run.epochs() if _erase(run, number, user)]
    # The last one in any case: of an epoch that is still being judged, the names have not come yet.
    for number in {*held, *run.epochs()[-1:]}:
        if user not in _noted(run, number):
            run.epoch(number).note(_KIND, {"user": user})
    return held


def forgotten(run: Run) -> set[int]:
    """The numbers of those whose names are not to be kept in this run any more."""
    return {user for number in run.epochs() for user in _noted(run, number)}


def _noted(run: Run, number: int) -> set[int]:
    return {note["user"] for note in run.epoch(number).notes(_KIND)}


def _erase(run: Run, number: int, user: int) -> bool:
    epoch = run.epoch(number)
    data = epoch.read_aside(PEOPLE_FILE)
    if data is None:
        return False
    with tempfile.TemporaryDirectory(dir=run.scratch()) as folder:  # names go to no disk where they do not lie already
        table = Path(folder, "people.parquet")
        table.write_bytes(data)
        rows = read_rows(table, PEOPLE)
        if not any(row["user"] == user and (row["name"], row["email"]) != (None, None) for row in rows):
            return False
        kept = [row | {"name": None, "email": None} if row["user"] == user else row for row in rows]
        write_table(table, kept, PEOPLE)
        epoch.write_aside(PEOPLE_FILE, table.read_bytes())
    return True
