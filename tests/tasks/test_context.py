"""Finding a run again, and noticing that it was made with other things."""

from pathlib import Path

import pytest

from storage.errors import ConfigurationChangedError, MissingDataError
from storage.run import Run
from tasks.config_reading import load_configuration
from tasks.context import create_run, found_run, open_run, run_folder

from .conftest import Begin, with_fields


def test_a_run_is_found_by_its_folder(begin: Begin, tmp_path: Path):
    context = begin("found")
    for typed in (str(tmp_path / "found"), f"{tmp_path}/found/"):
        configuration, run = found_run(typed)
        assert run.info == context.run.info
        assert configuration == context.configuration
    assert run_folder(configuration) == str(tmp_path / "found")


def test_a_run_that_was_moved_is_found_where_it_lies(begin: Begin, tmp_path: Path):
    begin("moved")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "moved").rename(tmp_path / "elsewhere" / "renamed")
    configuration, run = found_run(str(tmp_path / "elsewhere" / "renamed"))
    assert (configuration.storage.root, configuration.run) == (str(tmp_path / "elsewhere"), "renamed")
    assert run.name == "renamed"


def test_how_it_is_served_stays_known_when_it_is_opened_by_its_folder(begin: Begin, tmp_path: Path):
    served = with_fields(begin(), storage={"public_url": "https://files.example.org"}).configuration
    create_run(served.model_copy(update={"run": "served"}))
    found, _ = found_run(str(tmp_path / "served"))
    assert found.storage.public_url == "https://files.example.org"
    assert load_configuration(str(tmp_path / "served")).storage == found.storage


def test_nothing_is_made_by_looking(tmp_path: Path):
    with pytest.raises(MissingDataError, match="d3po init"):
        found_run(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_the_run_is_made_once(begin: Begin):
    context = begin()
    assert create_run(context.configuration).info == context.run.info
    assert len(context.run.info["run_id"]) == 12


@pytest.mark.parametrize(
    ("sections", "shown"),
    [
        ({"sampling": {"eta": 0.5}}, "sampling.eta: was 1.0, is 0.5"),
        ({"lora": {"rank": 3}}, "lora.rank: was 2, is 3"),
        ({"model": {"dtype": "bfloat16"}}, "model.dtype: was 'float32', is 'bfloat16'"),
    ],
)
def test_run_fields_are_frozen(begin: Begin, sections: dict, shown: str):
    context = begin()
    with pytest.raises(ConfigurationChangedError, match=shown) as caught:
        open_run(with_fields(context, **sections).configuration)
    assert "--run NAME" in str(caught.value)


def test_uids_never_meet_those_of_a_predecessor(begin: Begin, tmp_path: Path):
    """A run that is made again under the same name is another run to Label Studio."""
    first = begin("twice")
    (tmp_path / "twice").rename(tmp_path / "old")
    second = begin("twice")
    assert first.uid_prefix != second.uid_prefix
    assert first.uid_prefix == f"{Run.open(tmp_path, 'old').info['run_id']}/0"
