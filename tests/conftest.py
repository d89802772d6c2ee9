"""Fixtures that tests of every package may want."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.label_studio import LabelStudioServer, running_label_studio
from tests.support.project import Project, make_project, services_of

LONGEST_FIRST = ("faults", "d3po_core", "flows")
"""Of the processes, the one that begins with ``faults`` installs Label Studio first; the others have work meanwhile."""


# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Short files last, so that no process is left with a long one at the end."""
    place = {folder: number for number, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(place)))


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[LabelStudioServer]:
    """One real Label Studio (SQLite) for the whole session: ``url``, ``api_key``, ``document_root``."""
    template = pytestconfig.cache.mkdir("label-studio")
    with running_label_studio(tmp_path_factory.mktemp("label-studio"), template=template) as server:
        yield server


@pytest.fixture(scope="session")
def bare_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project folder with a tiny model and no services: nothing answers anywhere."""
    return make_project(tmp_path_factory.mktemp("bare") / "project")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Project]:
    """A project folder with its own Label Studio, Prefect server and worker, as ``d3po services up`` makes them."""
    made = make_project(tmp_path_factory.mktemp("project") / "project")
    with services_of(made, template=pytestconfig.cache.mkdir("label-studio")) as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(project: Project) -> dict[str, Any]:
    """The seal of a run that nothing happened to: on a disk, judged by a programme, without Label Studio."""
    done = project.d3po("run", project.configuration("undisturbed"), "--here", LABEL_STUDIO_URL="").good()
    assert "Traceback" not in done.text
    return project.seal("undisturbed")
