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


SPEED = {
    "k = 2": "| training, k = 2, a pair's transition |",
    "k = 7, 3 marked": "| training, k = 7 with 3 marked, a pair's transition |",
    "k = 2, an optimizer step per pair": "| training, k = 2, an optimizer step per pair |",
    "k = 7, 3 marked, an optimizer step per group": "| training, k = 7 with 3 marked, an optimizer step per group |",
    "k = 2, 5 of 20 transitions": "| training, k = 2, 5 drawn of the 20 transitions, over all 20 |",
    "sampling": "| sampling, an image with everything on disk |",
}


def test_speed_is_published_as_it_was_measured() -> None:
    measured = json.loads((REPOSITORY / "benchmarks" / "speed.json").read_text())
    assert {name for name in measured if not name.startswith("sweep")} == set(SPEED)
    for name, begin in SPEED.items():
        floor, published = measured[name]["product/floor"], measured[name]["opponent/product"]
        digits = 0 if published["median"] >= 10 else 2 if published["median"] < 2 else 1
        [line] = [line for line in PUBLISHED if line.startswith(begin)]
        assert f"| {_with_range(published, digits)} | {_with_range(floor, 2)} |" in line


SHARE = {
    "flow run": "| the flow run |",
    "computing": "| computing: sampling, training, the held-out images and their KL to the pretrained model |",
    "starts of processes, networks read": (
        "| starts of processes (importing torch and diffusers, mostly), reading networks |"
    ),
    "finding the micro-batch, drawing the report": (
        "| finding the micro-batch; drawing the report and the model card, and writing both |"
    ),
    "orchestration and storage": "| what is left: orchestration and storage |",
    "of these storing shards, reading and writing of training": (
        "| of these storing shards, reading and writing of training |"
    ),
}


def test_the_share_is_published_as_it_was_measured() -> None:
    median = json.loads((REPOSITORY / "benchmarks" / "share.json").read_text())["median"]
    assert set(median) == {*SHARE, "share of computing"}
    for name, begin in SHARE.items():
        assert f"{begin} {median[name]:.1f} |" in PUBLISHED
    share = f"over the computing alone, it is {100 * median['share of computing']:.1f} %"
    assert any(share in line for line in PUBLISHED)


START = {"flows.epoch": "| the flow's process |", "tasks.training.trainer": "| the trainer's |"}


def test_starts_are_published_as_they_were_measured() -> None:
    measured = json.loads((REPOSITORY / "benchmarks" / "start.json").read_text())
    assert set(measured) == set(START)
    for name, row in measured.items():
        seconds = f"{row['with the collector, s']:.1f} | {row['without, s']:.1f}"
        assert f"{START[name]} {seconds} | {_with_range(row['ratio'], 2)} |" in PUBLISHED


def _with_range(ratio: dict[str, float], digits: int) -> str:
    return f"{ratio['median']:.{digits}f} ({ratio['least']:.{digits}f}–{ratio['most']:.{digits}f})"


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
