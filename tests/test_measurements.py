"""The published tables are those of the committed rows, and a figure's runs go on where they were stopped."""

import json
from pathlib import Path

import pytest

from benchmarks.figure3 import choices, marked, plot, run

REPOSITORY = Path(__file__).parents[1]
FIGURE = REPOSITORY / "benchmarks" / "figure3"
PUBLISHED = (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8").splitlines()


def test_the_figures_table_is_of_its_rows() -> None:
    lines = list(plot.table(plot.standing(FIGURE / "rows.jsonl")))
    assert len(lines) == 2 + 6 + 2 + 6, "methods by objective"
    assert [line for line in lines if line not in PUBLISHED] == []
    assert lines == (FIGURE / "table.md").read_text(encoding="utf-8").splitlines()


def test_the_choices_tables_are_of_their_rows() -> None:
    lines = [line for block in choices.tables(FIGURE / "choices.jsonl") for line in block.splitlines() if line]
    assert [line for line in lines if line not in PUBLISHED] == []


def test_the_marked_rates_are_of_their_rows() -> None:
    lines = list(marked.table(FIGURE / "marked.jsonl"))
    assert len(lines) == 2 + len(marked.PLAN)
    assert [line for line in lines if line not in PUBLISHED] == []


def test_memory_is_published_as_it_was_measured() -> None:
    for row in json.loads((REPOSITORY / "benchmarks" / "memory.json").read_text()):
        end = f"| {row['resident_mb']:.0f} |"
        shown = [line for line in PUBLISHED if f"| {row['ms']:.0f} |" in line and line.endswith(end)]
        assert len(shown) == 1, row


def test_runs_go_on_with_the_rows_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = tmp_path / "rows.jsonl", []

    def stopped(configuration: object) -> dict:
        asked.append(configuration)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return {"reward": [0.0], "difference": 1.0, "standard_error": 0.5, "seconds": 1.0}

    monkeypatch.setattr(run, "run", stopped)
    monkeypatch.chdir(REPOSITORY)
    plan = [("d3po", plot.figure_settings("d3po", "compressibility"), "compressibility", seed) for seed in (0, 1, 2)]
    with pytest.raises(KeyboardInterrupt):
        run.complete(rows, plan)
    assert [row["seed"] for row in run.finished(rows)] == [0]
    run.complete(rows, plan)
    assert [row["seed"] for row in run.finished(rows)] == [0, 1, 2]
    run.complete(rows, plan)
    assert len(asked) == 4, "one of them twice, as it was stopped"
