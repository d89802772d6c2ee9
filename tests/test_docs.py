"""The documents against the code: tables, the file tree, links, and the runbook's list of errors."""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.tables import arithmetic_table, configuration_table, objectives_table, stored

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
RUNBOOK = REPOSITORY / "docs" / "runbook.md"
DOCUMENTS = sorted(
    [README, REPOSITORY / "CHANGELOG.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")]
)
PACKAGES = ("d3po_core", "storage", "tasks", "flows")
MADE_LATER = {
    "docs/images/before-after.png", "docs/images/annotate-compare.png",
    "docs/images/annotate-mark.png",
}  # fmt: skip
"""Pictures that a finished demo and the browser tests leave; they are put there by hand."""
ERRORS = {
    "UserError", "StorageError", "MissingDataError", "CorruptDataError", "UnknownFormatError", "CommitConflictError",
    "ConfigurationChangedError", "LockedError", "LabelStudioError", "UnreachableError", "WrongKeyError", "RefusedError",
    "ProjectGoneError", "ScreenChangedError", "PushConflictError", "BadExportError", "ModelError", "SamplingError",
    "TrainingError", "StartCheckError", "ServicesError", "BoundElsewhere", "ObjectiveError",
}  # fmt: skip
HOLE = "…"


def test_the_table_of_fields_is_the_codes() -> None:
    assert stored(REPOSITORY / "docs" / "configuration.md", "configuration") == configuration_table(), (
        "python -m docs.tables writes it again"
    )


def test_the_arithmetic_is_the_configurations() -> None:
    assert stored(README, "arithmetic") == arithmetic_table(), "python -m docs.tables writes it again"


def test_the_table_of_objectives_is_what_they_say_of_themselves() -> None:
    methods = REPOSITORY / "docs" / "methods.md"
    assert stored(methods, "objectives") == objectives_table(), "python -m docs.tables writes it again"


# ---- the file tree -------------------------------------------------------------------------------------------------


def named_in_tree() -> list[str]:
    """The paths of README's file tree: two spaces of indentation a level, then a name, then two spaces and what it is."""
    block = re.search(r"## The files\n.*?```text\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None, "README.md has no file tree"
    folders: list[str] = []
    paths = []
    for line in block[1].splitlines():
        name = line.split()[0]
        level = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:level], name.rstrip("/")]
        paths.append("/".join(folders))
    return paths


def tracked() -> list[str]:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return listed.stdout.splitlines()


def test_every_file_in_the_tree_exists() -> None:
    assert [path for path in named_in_tree() if not (REPOSITORY / path).exists() and path != "docs/images"] == []


def test_nothing_is_in_the_tree_twice() -> None:
    assert [path for path, times in Counter(named_in_tree()).items() if times > 1] == []


def test_every_module_is_in_the_tree() -> None:
    modules = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert sorted(modules - set(named_in_tree())) == []


def test_everything_at_the_top_is_in_the_tree() -> None:
    tops = {path.split("/")[0] for path in tracked()}
    assert sorted(tops - {path.split("/")[0] for path in named_in_tree()}) == []


# ---- links ---------------------------------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[tuple[str, str]]:
    """(path, anchor) of each link that is not to somewhere else."""
    prose = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"<img[^>]* src=\"([^\"]+)\"", prose):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for path, anchor in links(document):
        target = (document.parent / path).resolve() if path else document
        if target.is_relative_to(REPOSITORY) and target.relative_to(REPOSITORY).as_posix() in MADE_LATER:
            continue
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    assert broken == []


def test_decisions_are_numbered_without_a_gap() -> None:
    names = sorted(path.name for path in (REPOSITORY / "docs" / "decisions").glob("*.md") if path.name != "README.md")
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


# ---- the runbook ---------------------------------------------------------------------------------------------------


def literal(node: ast.expr) -> str:
    """What of a message is fixed, with a hole for each value."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return literal(node.left) + literal(node.right)
    return HOLE


def messages() -> dict[str, str]:
    """Place → the fixed text of each error that the code makes for an operator."""
    found = {}
    for file in (path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
                text = " ".join(literal(node.args[0]).split())
                if len(re.sub(r"\W", "", text)) >= 8:
                    found[f"{file.relative_to(REPOSITORY)}:{node.lineno}"] = text
    return found


def patterns() -> list[str]:
    """The messages in the first column of the runbook's tables of errors."""
    text = RUNBOOK.read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \|", text[text.index("## Errors") :], re.MULTILINE)


def says(pattern: str, message: str) -> bool:
    """Whether a message begins as a pattern says; a hole is a hole in the message too, or any part of it."""
    pieces = [re.escape(piece.strip()) for piece in pattern.split(HOLE)]
    return pattern.startswith(HOLE) <= message.startswith(HOLE) and bool(
        re.match(".*?".join(pieces), message, re.DOTALL)
    )


def test_every_error_is_in_the_runbook() -> None:
    known = patterns()
    assert [f"{at}: {text}" for at, text in messages().items() if not any(says(one, text) for one in known)] == []


def test_the_runbook_names_no_error_that_is_gone() -> None:
    made = list(messages().values())
    assert [one for one in patterns() if not any(says(one, text) for text in made)] == []
