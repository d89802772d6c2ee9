"""Evaluations as an operator makes them: the deployment, the verb, and people who compare blind."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Project

pytestmark = pytest.mark.slow

FOLDER = "runs/evaluations/compared"
ADAPTER = "A=runs/undisturbed:0"


@pytest.fixture(scope="module")
def evaluated(project: Project, undisturbed: dict[str, Any]) -> str:
    """A configuration whose evaluation was made by the deployment."""
    fields = {"prompts": "held-out.txt", "images_per_prompt": 2}
    (project.folder / "held-out.txt").write_text("a red square\na blue circle\nan old tree\n")
    config = project.configuration("undisturbed", evaluation=fields)
    project.prefect(
        "deployment", "run", "evaluate/evaluate", "--watch", "-p", f"config={config}", "-p", "name=compared",
        "-p", f"adapters={json.dumps(dict([ADAPTER.split('=')]))}",
    ).good()  # fmt: skip
    return config


def test_the_deployment_writes_the_page_and_shows_it(project: Project, evaluated: str):
    folder = project.folder / FOLDER
    assert {"evaluation.json", "evaluation.parquet", "evaluation.html"} <= {file.name for file in folder.iterdir()}
    from flows.flow_runs import prefect_client

    with project.entered(), prefect_client() as client:
        [shown] = [one for one in client.read_artifacts() if one.key == "evaluation-compared"]
    assert "| A | 1 | jpeg_compressibility |" in shown.data
    assert f"{FOLDER}/evaluation.html" in shown.data


def test_the_verb_finds_it_done(project: Project, evaluated: str):
    folder = project.folder / FOLDER
    before = {file: file.stat().st_mtime_ns for file in (folder / "parts").rglob("*")}
    said = project.verb("evaluate", evaluated, "--adapter", ADAPTER, "--name", "compared").good().out
    assert "jpeg_compressibility" in said
    assert f"d3po ab start {folder.relative_to(project.folder)} base A" in said.replace(f"{project.folder}/", "")
    assert {file: file.stat().st_mtime_ns for file in (folder / "parts").rglob("*")} == before


def test_people_compare_blind(project: Project, evaluated: str):
    said = project.verb("ab", "start", FOLDER, "base", "A").good().out
    assert "people judge at http" in said
    project.verb("ab", "results", FOLDER).refused("nobody has judged any of the 3 comparisons yet")
    with project.entered():
        from tasks.evaluation.blind import blind_of
        from tasks.evaluation.finished import open_evaluation
        from tasks.label_studio.screens import result_for
        from tasks.labels.connection import connect

        blind, client = blind_of(open_evaluation(FOLDER), 0), connect()
        for id, order in blind.plan.orders.items():
            verdict = "left" if blind.owners[order[0]] == "A" else "right"
            client.annotate(blind.ls_tasks[blind.plan.uid(id)][0], result_for(blind.plan.screen, verdict=verdict))
    said = project.verb("ab", "results", FOLDER).good().out
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert rows["A"][1:6] == ["3", "0", "0", "0", "100.0%"]
    assert rows["base"][1:6] == ["0", "3", "0", "0", "0.0%"]
    assert "Blind comparison: base against A" in Path(project.folder, FOLDER, "evaluation.html").read_text()


def test_what_was_judged_goes_out_and_in(project: Project, undisturbed: dict[str, Any]):
    said = project.verb("export", "runs/undisturbed", "out", "--preferences", "chosen").good().out
    assert "out/preferences-chosen.parquet" in said
    project.verb("export", "runs/undisturbed", "out", "--preferences", "csv").refused("expected pickapic or chosen")
    said = project.verb("export", "runs/undisturbed", "out", "--preferences", "pickapic").good().out
    assert "out/preferences-pickapic.parquet (6 rows)" in said
    config = project.configuration("brought-in")
    said = project.verb("import", config, "out/preferences-pickapic.parquet").good().out
    assert "epoch 0: 6 image pairs, 6 judgements, of 6 rows; images resized to 16 × 16 pixels" in said
    assert {"prompts", "shard-000000", "pull"} <= project.committed("brought-in")
    status = project.verb("status", "runs/brought-in").good().out
    assert status.splitlines()[1].split()[:3] == ["0", "done", "done"]


def test_the_whole_pipeline_goes_out(project: Project, undisturbed: dict[str, Any]):
    said = project.verb("export", "runs/undisturbed", "whole", "--merged").good().out
    assert "from_pretrained('whole')" in said
    assert (project.folder / "whole" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    project.verb("export", "runs/undisturbed", "whole", "--merged").refused("whole is not empty")
