"""An epoch in the making, without any service: the tasks' own functions called one after the other."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.large_epoch import write_shards
from d3po_core.records import Judgement
from storage.manifest import build_seal, environment
from storage.run import Run
from tasks.config import Configuration
from tasks.config_reading import load_configuration
from tasks.context import EpochContext, create_run
from tasks.generation.generate import write_prompt_embeds
from tasks.generation.plan import make_plan
from tasks.generation.shards import write_generated
from tasks.labels.pull import judge_by_programme, programmed_values, write_judgements
from tasks.reports.report import report
from tasks.training import trainer
from tasks.training.attempt import training_attempt
from tasks.training.reference import reference
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.label_studio import LabelStudioServer
from tests.support.project import PROMPTS, Project

Begin = Callable[..., EpochContext]


@pytest.fixture
def at_home(bare_project: Project, tmp_path: Path) -> Iterator[Project]:
    """Inside the project's folder; runs go to a root of the test's own."""
    with bare_project.entered(D3PO_CACHE=str(tmp_path / "cache")):
        yield bare_project


@pytest.fixture
def begin(at_home: Project, tmp_path: Path) -> Begin:
    """The first epoch of a new run (or ``number``, of that run), with these fields on top."""

    def made(run: str = "unit", number: int = 0, **sections: Any) -> EpochContext:
        return context_of(
            load_configuration(at_home.configuration(run, storage={"root": str(tmp_path)}, **sections)), number
        )

    return made


def context_of(configuration: Configuration, number: int) -> EpochContext:
    return EpochContext(configuration=configuration, run=create_run(configuration), number=number)


@pytest.fixture
def generated(begin: Begin) -> EpochContext:
    """Planned, generated and judged by a programme."""
    return generate_and_judge(begin())


def generate_and_judge(context: EpochContext) -> EpochContext:
    make_plan(context)
    write_prompt_embeds(context)
    for name in context.plan["shards"]:
        write_generated(context, name)
    judge_by_programme.fn(context)
    return context


def again(context: EpochContext) -> EpochContext:
    """The same epoch as another process sees it, which has verified nothing yet."""
    run = Run.open(context.run.root, context.run.name)
    return EpochContext(configuration=context.configuration, run=run, number=context.number)


def with_fields(context: EpochContext, **sections: dict[str, Any]) -> EpochContext:
    """The same epoch under a changed configuration."""
    values = context.configuration.model_dump(mode="json")
    for name, fields in sections.items():
        values[name] |= fields
    return EpochContext(configuration=Configuration.model_validate(values), run=context.run, number=context.number)


def train_and_seal(context: EpochContext) -> EpochContext:
    """A generated and judged epoch's training, in this process, and its seal."""
    reference.fn(context)
    trainer.run(context, training_attempt(context).attempt)
    context.epoch.create_seal(build_seal(context.epoch, environment()))
    return again(context)


def judged_by_people(context: EpochContext) -> EpochContext:
    """Planned and generated; then two people's answers, as a pull leaves them: the second always disagrees on g000000."""

    def answers() -> list[Judgement]:
        found = []
        for group in context.groups().values():
            left, right = ids = group.trajectory_ids(2)
            better = 0 if values[left] > values[right] else 1
            for person, seconds in ((3, 4.0), (8, 12.0)):
                said = better if (person, group.index) != (8, 0) else 1 - better
                levels = ((1.0,), (0.0,)) if said == 0 else ((0.0,), (1.0,))
                found.append(
                    Judgement(
                        id=f"ls:{group.index * 2 + person}", group_id=group.id, judge=f"user:{person}", verdict="prefer",
                        trajectory_ids=ids, levels=levels, updated_at="2026-01-01T00:00:00", seconds=seconds,
                    )
                )  # fmt: skip
        return found

    make_plan(context)
    write_prompt_embeds(context)
    for name in context.plan["shards"]:
        write_generated(context, name)
    values = programmed_values(context, "jpeg_compressibility")
    attempt = context.epoch.begin("pull")
    write_judgements(attempt.path, answers())
    context.epoch.commit(attempt, {"judgements": 12})
    return context


@pytest.fixture(scope="session")
def reported(bare_project: Project, tmp_path_factory: pytest.TempPathFactory) -> EpochContext:
    """The last of two sealed and reported epochs, judged by two people; nobody changes it."""
    root = tmp_path_factory.mktemp("two-epochs")
    (root / "held-out.txt").write_text("\n".join(PROMPTS[:3]))
    sections = {
        "storage": {"root": str(root)},
        "evaluation": {"prompts": str(root / "held-out.txt")},
        "labels": {"source": "people", "judgements_per_group": 2},
    }
    with bare_project.entered(D3PO_CACHE=str(root / "cache")):
        configuration = load_configuration(bare_project.configuration("two-epochs", **sections))
        for number in range(2):
            context = train_and_seal(judged_by_people(context_of(configuration, number)))
            report.fn(context)
    return context


@pytest.fixture
def two_epochs(at_home: Project, reported: EpochContext) -> EpochContext:
    """``reported``, as another process sees it."""
    return again(reported)


@pytest.fixture
def proxy(label_studio: LabelStudioServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """What the tasks speak through; it only counts."""
    with fault_proxy(label_studio.url) as running:
        monkeypatch.setenv("LABEL_STUDIO_URL", running.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.api_key)
        yield running


@pytest.fixture
def shown(
    at_home: Project, label_studio: LabelStudioServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> EpochContext:
    """Six groups in three shards, generated; a test's own sections by ``@pytest.mark.parametrize(…, indirect=True)``."""
    root = label_studio.document_root / request.node.name.partition("[")[0]
    sections = {"labels": {"source": "people"}} | getattr(request, "param", {})
    configuration = at_home.configuration("unit", storage={"root": str(root)}, **sections)
    context = context_of(load_configuration(configuration), 0)
    monkeypatch.setenv("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", str(label_studio.document_root))
    make_plan(context)
    write_shards(context)
    return context
