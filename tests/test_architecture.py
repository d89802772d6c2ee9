"""The house holds: imports run one way, heavy and foreign packages stay where they belong, every field has its class."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from d3po_core.config import Section
from tasks.config import Configuration, field_classes

REPOSITORY = Path(__file__).parents[1]
OURS = ("flows", "tasks", "storage", "d3po_core")
ALLOWED = {
    "flows": {"flows", "tasks", "storage", "d3po_core"},
    "tasks": {"tasks", "storage", "d3po_core"},
    "storage": {"storage"},
    "d3po_core": {"d3po_core"},
}
FOREIGN = {
    "d3po_core": {"prefect", "label_studio_sdk", "label_studio", "zarr", "pyarrow", "obstore"},
    "storage": {
        "torch",
        "prefect",
        "label_studio_sdk",
        "label_studio",
        "diffusers",
        "transformers",
        "peft",
        "accelerate",
    },
    "tasks/label_studio": {"prefect", "torch"},
}
CLASSES = {"run", "sampling", "labels", "training", "free"}
WITHOUT_THE_NETWORK = (
    *("flows.status", "flows.comparison", "flows.report_command", "tasks.labels.annotate", "tasks.evaluation.blind"),
    *("tasks.evaluation.blind_results", "tasks.evaluation.finished", "tasks.reports.tensorboard"),
    *("tasks.exchange.export_preferences", "tasks.exchange.fork", "tasks.upkeep.audit", "tasks.upkeep.prune"),
)
"""What those verbs import that compute nothing with the network: torch with diffusers takes five seconds to import."""
MACHINE = re.compile(
    r"""(?<![\w.$}/-])/(?:home|Users|root|work|tmp|mnt|media|opt/conda|workspace|data)/(?:[\w.-]+)|\b[A-Z]:\\\\?Users\\"""
)
NO_MACHINES = re.compile(r"/data/local-files/|/tmp/[\w.-]*XXXXXX")
"""A path of a URL; what mktemp makes anew each time."""
OF_AN_IMAGE = {"Dockerfile", "compose.yaml"}
"""Files whose paths lie in the image that they make."""


def modules(folder: str) -> list[Path]:
    found = sorted((REPOSITORY / folder).rglob("*.py"))
    assert found, f"no module in {folder}"
    return found


def imports(path: Path) -> Iterator[str]:
    """Everything that a module imports, wherever in it, by its full name."""
    package = path.relative_to(REPOSITORY).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{name.name}" for name in node.names)


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("package", OURS)
def test_imports_run_one_way(package: str):
    wrong = {
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in modules(package)
        for name in imports(path)
        if top(name) in {*OURS, "assets", "tests", "benchmarks"} - ALLOWED[package]
    }
    assert not wrong


@pytest.mark.parametrize("package", FOREIGN)
def test_foreign_packages_stay_outside(package: str):
    wrong = {
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in modules(package)
        for name in imports(path)
        if top(name) in FOREIGN[package]
    }
    assert not wrong


def test_one_module_knows_label_studios_sdk():
    knowing = {
        str(path.relative_to(REPOSITORY))
        for package in OURS
        for path in modules(package)
        if any(top(name) == "label_studio_sdk" for name in imports(path))
    }
    assert knowing == {"tasks/label_studio/client.py"}


def test_only_the_tasks_talk_to_the_outside_world():
    """Flows compose: they neither open files of the store nor speak with Label Studio themselves."""
    wrong = {
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in modules("flows")
        for name in imports(path)
        if top(name) in {"zarr", "pyarrow", "obstore", "torch", "diffusers"}
    }
    assert not wrong


@pytest.mark.parametrize(
    "module",
    ["d3po_core.config", "tasks.config", "flows.gate", "flows.cli", "storage.run", *WITHOUT_THE_NETWORK],
)
def test_is_imported_without_torch(module: str):
    code = f"import sys, {module}; print(*sorted({{'torch', 'diffusers', 'transformers'}} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("tasks.config", {"prefect", "label_studio_sdk", "zarr", "pandas"}),
        ("tasks.training.trainer", {"prefect", "label_studio_sdk"}),
    ],
)
def test_is_imported_without_what_it_does_not_need(module: str, others: set[str]):
    code = f"import sys, {module}; print(*sorted({others!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == []


def test_every_field_has_a_class_of_change():
    classes = dict(field_classes(Configuration))
    assert set(classes.values()) == CLASSES
    assert classes["model.path"] == classes["sampling.eta"] == classes["run"] == "run"
    assert classes["sampling.group_size"] == classes["prompts.file"] == "sampling"
    assert classes["labels.judgements_per_group"] == "labels"
    assert classes["objective.beta"] == classes["training.learning_rate"] == "training"
    assert classes["storage.root"] == classes["model.device"] == "free"


def test_a_field_without_a_class_is_noticed():
    class Careless(Section):
        field: int = 3

    with pytest.raises(TypeError, match="field says no class of change"):
        dict(field_classes(Careless))


def test_every_field_says_what_it_means():
    """One sentence under a field is its documentation everywhere; units that the paper names need none."""
    from flows.schema_table import field_rows

    silent = {path for path, _, _, meaning in field_rows() if not meaning}
    assert {path for path in silent if not path.startswith("training.")} == set()


def test_no_committed_file_names_a_machines_paths():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    wrong = []
    for name in listed.stdout.splitlines():
        path = REPOSITORY / name
        if name in {*OF_AN_IMAGE, str(Path(__file__).relative_to(REPOSITORY))} or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [
            f"{name}:{number}: {match.group()}"
            for number, line in enumerate(text.splitlines(), start=1)
            for match in MACHINE.finditer(line)
            if not NO_MACHINES.match(line, match.start())
        ]
    assert not wrong, "\n".join(wrong[:20])
