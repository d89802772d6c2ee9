"""A name goes on request; judgements by number, digests and audits stay."""

from pathlib import Path

import pytest

from storage.manifest import build_seal, environment
from storage.tables import PEOPLE, read_rows, write_table
from tasks.context import EpochContext
from tasks.training.attempt import training_attempt
from tasks.upkeep.forget import PEOPLE_FILE, forget, forgotten
from tests.support.project import Project

NAMES = [
    {"user": 7, "name": "Ada Lovelace", "email": "ada@example.invalid"},
    {"user": 8, "name": "Charles", "email": "charles@example.invalid"},
]


@pytest.fixture
def sealed(generated: EpochContext, tmp_path: Path) -> EpochContext:
    """Sealed, with two people's names beside it."""
    training_attempt(generated)
    generated.epoch.create_seal(build_seal(generated.epoch, environment()))
    write_table(tmp_path / "people.parquet", NAMES, PEOPLE)
    generated.epoch.write_aside(PEOPLE_FILE, (tmp_path / "people.parquet").read_bytes())
    return generated


def names_in(context: EpochContext, text: str) -> list[str]:
    """Files of the run in which a text stands."""
    return [
        str(file)
        for file in Path(context.run.location).rglob("*")
        if file.is_file() and text.encode() in file.read_bytes()
    ]


def test_the_name_is_gone_from_every_file_and_the_audit_agrees(at_home: Project, sealed: EpochContext):
    seal = sealed.epoch.seal()
    assert names_in(sealed, "Lovelace")
    said = at_home.verb("forget", sealed.run.location, "--user", "7").good().out
    assert "user:7 are erased from epochs 0" in said
    assert "docs/runbook.md" in said
    assert not names_in(sealed, "Lovelace")
    assert not names_in(sealed, "ada@example")
    rows = read_rows(Path(sealed.run.location, sealed.epoch_key, PEOPLE_FILE), PEOPLE)
    assert rows == [{"user": 7, "name": None, "email": None}, NAMES[1]]
    assert sealed.epoch.seal() == seal
    assert "everything agrees" in at_home.verb("audit", sealed.run.location).good().out
    [note] = sealed.epoch.notes("forgotten")
    assert {name: value for name, value in note.items() if name not in ("time", "id", "number", "format")} == {
        "user": 7
    }


def test_once_is_enough(sealed: EpochContext):
    assert forget(sealed.run, 7) == [0]
    before = Path(sealed.run.location, sealed.epoch_key, PEOPLE_FILE).read_bytes()
    assert forget(sealed.run, 7) == []
    assert Path(sealed.run.location, sealed.epoch_key, PEOPLE_FILE).read_bytes() == before
    assert len(sealed.epoch.notes("forgotten")) == 1
    assert forgotten(sealed.run) == {7}


def test_who_is_in_no_epoch_yet_is_remembered_for_the_next_pull(at_home: Project, generated: EpochContext):
    said = at_home.verb("forget", generated.run.location, "--user", "9").good().out
    assert "none held them" in said
    assert forgotten(generated.run) == {9}
    assert generated.epoch.read_aside(PEOPLE_FILE) is None
