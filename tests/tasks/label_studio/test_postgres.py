"""Label Studio on PostgreSQL, as several annotators need it."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.service_settings import free_port
from tasks.label_studio.parse import parse_export
from tasks.label_studio.reading import read_export
from tasks.label_studio.screens import COMPARE_VERDICTS, compare_screen, result_for
from tasks.labels.progress import progress
from tests.support.label_studio import LabelStudioServer, running_label_studio
from tests.support.pushed import push

pytestmark = pytest.mark.slow

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
ANNOTATORS = 6
GROUPS = 20


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cluster of its own; as root, run by ``nobody``, because PostgreSQL refuses root."""
    if POSTGRES is None:
        pytest.skip("no PostgreSQL is installed (looked in /usr/lib/postgresql/*/bin)")
    as_nobody = ["runuser", "-u", "nobody", "--"] if os.getuid() == 0 else []
    # pytest's own folders are closed to other users.
    folder = Path(subprocess.check_output([*as_nobody, "mktemp", "-d", "/tmp/d3po-pg-XXXXXX"], text=True).strip())
    port = free_port()
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"

    def run(*command: str) -> None:
        subprocess.run(
            [*as_nobody, str(POSTGRES / command[0]), *command[1:]], check=True, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=120,
        )  # fmt: skip

    run("initdb", "-D", f"{folder}/data", "-U", "labels", "-A", "trust", "-E", "UTF8")
    try:
        run("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "labels", "labels")
        yield {
            "DJANGO_DB": "default", "POSTGRE_NAME": "labels", "POSTGRE_USER": "labels", "POSTGRE_PASSWORD": "none",
            "POSTGRE_HOST": "127.0.0.1", "POSTGRE_PORT": str(port),
        }  # fmt: skip
    finally:
        run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shared(postgres: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    with running_label_studio(tmp_path_factory.mktemp("label-studio-postgres"), database=postgres) as server:
        yield server


def test_annotators_at_the_same_time(shared: LabelStudioServer, tmp_path: Path):
    pushed = push(shared.connect(), compare_screen(), GROUPS, people=ANNOTATORS)
    users = [pushed.client.create_user(f"annotator-{number}@example.invalid") for number in range(ANNOTATORS)]

    def judge_everything(user: int) -> dict[int, str]:
        """In an order of one's own, so that people meet on the same task."""
        dice, client, given = random.Random(user), shared.connect(), {}
        for group in dice.sample(sorted(pushed.plan.orders), GROUPS):
            verdict = dice.choice(COMPARE_VERDICTS)
            given[
                client.annotate(pushed.task(group), result_for(pushed.plan.screen, verdict), user=user, seconds=1.0)
            ] = verdict
        return given

    with ThreadPoolExecutor(ANNOTATORS) as pool:
        acknowledged = {
            number: verdict for given in pool.map(judge_everything, users) for number, verdict in given.items()
        }
    assert len(acknowledged) == ANNOTATORS * GROUPS

    pushed.client.export(pushed.project, tmp_path / "export.json.gz")
    parsed = parse_export(read_export(tmp_path / "export.json.gz"), pushed.plan, pushed.ls_tasks)
    assert {int(one.id.removeprefix("ls:")) for one in parsed.judgements} == set(acknowledged), (
        "none is lost, none is new"
    )
    assert (parsed.set_aside, parsed.missing) == ([], [])
    done = progress(pushed.plan.orders, parsed.judgements, parsed.skips, judgements_per_group=ANNOTATORS, max_skips=1)
    assert done.complete
    assert done.per_judge == {f"user:{user}": GROUPS for user in users}


def test_import_is_exact_here_too(shared: LabelStudioServer):
    pushed = push(shared.connect(), compare_screen(), 2500)
    assert pushed.client.import_exactly_once(pushed.project, pushed.items) == pushed.ls_tasks
    assert [len(tasks) for tasks in pushed.ls_tasks.values()] == [1] * 2500
