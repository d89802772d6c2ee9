"""Fixtures that tests of every package may want."""

from collections.abc import Iterator

import pytest

from tests.support.label_studio import LabelStudioServer, running_label_studio


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[LabelStudioServer]:
    """One real Label Studio (SQLite) for the whole session: ``url``, ``api_key``, ``document_root``."""
    template = pytestconfig.cache.mkdir("label-studio")
    with running_label_studio(tmp_path_factory.mktemp("label-studio"), template=template) as server:
        yield server
