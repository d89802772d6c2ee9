"""The command line, and what it says to bad input: exit status, what was expected and found, the next step, no trace.

Verbs run in this process unless the test is about the process; the code is the same.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.project import BIN, NOBODY, PROMPTS, Project, flip_byte

VERBS = [
    "init",
    "run",
    "status",
    "annotate",
    "proceed",
    "audit",
    "heal",
    "recover",
    "evaluate",
    "ab",
    "export",
    "import",
    "report",
    "schema",
    "services",
]
PEOPLE = {"labels": {"source": "people"}}


# ---- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(bare_project: Project, verb: str):
    said = bare_project.verb(verb, "--help").good().out
    usage = next(line for line in said.splitlines() if "Usage:" in line)
    assert f" {verb} " in usage
    assert len(said.split()) > 15


def test_as_a_module_and_as_a_command(bare_project: Project):
    shown = [
        subprocess.run(
            [*command, "--help"], cwd=bare_project.folder, env=dict(bare_project.environment), capture_output=True,
            text=True, timeout=120, check=True,
        ).stdout
        for command in ([str(BIN / "d3po")], [sys.executable, "-m", "flows"])
    ]  # fmt: skip
    assert all(f" {verb} " in shown[0] for verb in VERBS)
    assert [line for line in shown[0].splitlines() if "Usage" not in line] == [
        line for line in shown[1].splitlines() if "Usage" not in line
    ]


def test_schema_lists_every_field(bare_project: Project):
    from tasks.config import Configuration, field_classes

    said = bare_project.verb("schema").good().out
    assert not [path for path, _ in field_classes(Configuration) if path not in said]


def test_unknown_verb_or_option(bare_project: Project):
    for wrong in (["anotate"], ["status"], ["status", "runs/x", "--wait"]):
        done = bare_project.verb(*wrong)
        assert done.code == 2
        assert "Traceback" not in done.text
        assert "Usage" in done.text


# ---- configurations ---------------------------------------------------------------------------------------------------


def test_init_of_a_good_configuration(bare_project: Project):
    config = bare_project.configuration("good")
    said = bare_project.verb("init", config).good().out
    assert "8 in prompts.txt" in said
    assert "4 of 4 steps to train on" in said
    assert "MB free" in said
    assert f"next: d3po run {config}" in said
    info = json.loads((bare_project.runs / "good" / "run.json").read_text())
    assert info["configuration"]["run"] == "good"
    assert len(info["run_id"]) == 12
    bare_project.verb("init", config).good()
    assert json.loads((bare_project.runs / "good" / "run.json").read_text()) == info


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"sampling": {"guidence_scale": 5.0}}, ["sampling.guidence_scale", "did you mean sampling.guidance_scale"]),
        ({"trainning": {"learning_rate": 1.0}}, ["trainning", "no such field"]),
        ({"sampling": {"eta": 0}}, ["sampling.eta", "nothing to train on", "sampling.eta: 1.0"]),
        ({"sampling": {"eta": 1.5}}, ["sampling.eta", "less than or equal to 1", "1.5"]),
        ({"sampling": {"group_size": 1}}, ["sampling.group_size", "greater than or equal to 2", "found 1"]),
        ({"sampling": {"num_inference_steps": "many"}}, ["sampling.num_inference_steps", "'many'"]),
        (
            {"labels": {"source": "people", "screen": "compare"}, "sampling": {"group_size": 3}},
            ["compare", "2 images", "3"],
        ),
        ({"lora": {"dropout": 0.1}}, ["lora.dropout", "start check"]),
        ({"objective": {"reduction": "sum", "beta": 0.1, "gamma": 1}}, ["objective.gamma", "no such field"]),
        ({"prompts": {"groups_per_epoch": 0}}, ["prompts.groups_per_epoch", "greater than or equal to 1"]),
        ({"labels": {"objectives": ["beauty"]}}, ["labels.objectives", "beauty", "jpeg_compressibility"]),
        ({"evaluation": {"objectives": ["beauty"]}}, ["beauty", "jpeg_compressibility"]),
    ],
)
def test_wrong_fields_are_named(bare_project: Project, sections: dict, expected: list[str]):
    config = bare_project.configuration("wrong", **sections)
    bare_project.verb("init", config).refused(*expected)
    assert not (bare_project.runs / "wrong").exists()


def test_every_wrong_field_is_named_at_once(bare_project: Project):
    config = bare_project.configuration("wrong", sampling={"eta": 3, "steps": 4}, training={"learning_rate": -1})
    bare_project.verb("init", config).refused("wrong.yaml", "sampling.eta", "sampling.steps", "training.learning_rate")


def test_missing_fields_and_sections(bare_project: Project):
    (bare_project.folder / "empty.yaml").write_text("seed: 3\n")
    bare_project.verb("init", "empty.yaml").refused("run: missing", "model: missing", "prompts: missing")


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"run: [unclosed", "not readable YAML"), (b"- a\n- list\n", "list"), (b"run: caf\xe9\n", "not readable YAML")],
)
def test_configuration_files_that_are_none(bare_project: Project, content: bytes, expected: str):
    (bare_project.folder / "none.yaml").write_bytes(content)
    bare_project.verb("init", "none.yaml").refused("none.yaml", expected)


def test_no_configuration_file(bare_project: Project):
    bare_project.verb("init", "missing.yaml").refused("missing.yaml", str(bare_project.folder))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["--sampling.guidence_scale", "5"], ["guidence_scale"]),
        (["--sampling.eta", "0"], ["sampling.eta", "nothing to train on"]),
        (["--sampling.eta"], ["sampling.eta"]),
    ],
)
def test_wrong_overrides(bare_project: Project, overrides: list[str], expected: list[str]):
    config = bare_project.configuration("wrong")
    bare_project.verb("init", config, *overrides).refused(*expected)


def test_overrides_are_taken(bare_project: Project):
    config = bare_project.configuration("good")
    said = bare_project.verb("init", config, "--run", "other", "--sampling.num_inference_steps", "5").good().out
    assert "5 of 5 steps to train on" in said
    assert (bare_project.runs / "other" / "run.json").exists()


# ---- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no prompt"),
        (b"\n  \n", "no prompt"),
        (b"a red square\na blue circle\na red square\n", "'a red square'"),
        (b"a caf\xe9\n", "not UTF-8"),
    ],
)
def test_prompt_files_that_cannot_be_used(bare_project: Project, content: bytes, expected: str):
    (bare_project.folder / "bad.txt").write_bytes(content)
    bare_project.verb("init", bare_project.configuration("wrong", prompts={"file": "bad.txt"})).refused(
        "bad.txt", expected
    )
    assert not (bare_project.runs / "wrong").exists()


def test_no_prompt_file(bare_project: Project):
    bare_project.verb("init", bare_project.configuration("wrong", prompts={"file": "no.txt"})).refused("no.txt")


def test_a_long_prompt_is_named_and_refused_or_truncated_by_choice(bare_project: Project):
    long = "a prompt of far more than sixteen letters"
    (bare_project.folder / "long.txt").write_text(f"a red square\n{long}\n")
    config = bare_project.configuration("long", prompts={"file": "long.txt"})
    bare_project.verb("init", config).refused(long, "16", "sampling.long_prompts")
    assert not (bare_project.runs / "long").exists()
    bare_project.verb("init", config, "--sampling.long_prompts", "truncate").good()


# ---- model and disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["unet", "vae", "tokenizer", "text_encoder", "scheduler"])
def test_a_model_without_one_of_its_parts(bare_project: Project, tmp_path: Path, part: str):
    model = tmp_path / "model"
    shutil.copytree(bare_project.folder / "model", model)
    shutil.rmtree(model / part) if (model / part).is_dir() else (model / part).unlink()
    bare_project.verb("init", bare_project.configuration("wrong", model={"path": str(model)})).refused(part, str(model))


def test_no_model(bare_project: Project, tmp_path: Path):
    bare_project.verb("init", bare_project.configuration("wrong", model={"path": str(tmp_path / "no-model")})).refused(
        str(tmp_path / "no-model")
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("clip_sample", True), ("timestep_spacing", "trailing"), ("prediction_type", "sample"), ("thresholding", True)],
)
def test_a_schedule_without_a_density_is_refused_by_name(bare_project: Project, tmp_path: Path, field: str, value):
    model = tmp_path / "model"
    shutil.copytree(bare_project.folder / "model", model)
    file = model / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    bare_project.verb("init", bare_project.configuration("wrong", model={"path": str(model)})).refused(field)


def test_a_last_step_without_noise_is_not_trained_on(bare_project: Project, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(bare_project.folder / "model", model)
    file = model / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "steps_offset": 0}))
    said = bare_project.verb("init", bare_project.configuration("last-step", model={"path": str(model)})).good().out
    assert "3 of 4 steps to train on" in said


def test_a_model_that_was_exchanged(bare_project: Project, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(bare_project.folder / "model", model)
    config = bare_project.configuration("exchanged", model={"path": str(model)})
    bare_project.verb("init", config).good()
    [weights] = (model / "unet").glob("*.safetensors")
    flip_byte(weights)
    bare_project.verb("init", config).refused("digest", str(model), "exchanged")


# ---- programmed objectives --------------------------------------------------------------------------------------------


def test_each_objective_looks_at_a_blank_picture(bare_project: Project):
    (bare_project.folder / "good_objectives.py").write_text(
        "def size(images, prompts):\n    return [images.shape[1]]\n"
    )
    answer = "import sys; [print('{\"values\": [0.5]}', flush=True) for line in sys.stdin]"
    config = bare_project.configuration(
        "tried",
        programmed={
            "size": {"kind": "python", "target": "good_objectives:size", "unit": "pixels"},
            "half": {"kind": "command", "command": [sys.executable, "-c", answer]},
        },
        evaluation={"objectives": ["size"]},
    )
    said = bare_project.verb("init", config).good().out
    assert "ok objective size: 16 for a blank picture (pixels, higher is better)" in said
    assert "ok objective half: 0.5 for a blank picture" in said
    assert "ok objective jpeg_compressibility: -" in said


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"kind": "clip_score", "model": "/no/clip"}, ["CLIPModel", "/no/clip"]),
        ({"kind": "aesthetic", "model": "/no/clip", "head": "h.safetensors"}, ["/no/clip"]),
        ({"kind": "vlm_alignment", "model": "/no/vlm", "encoder": "e"}, ["AutoModelForImageTextToText", "/no/vlm"]),
        ({"kind": "python", "target": "no_such_module:f"}, ["no_such_module", "does not import"]),
        ({"kind": "python", "target": "json:beauty"}, ["has no function beauty", "dumps"]),
        ({"kind": "command", "command": ["no-such-program"]}, ["no-such-program", "cannot be started"]),
        (
            {"kind": "command", "command": [sys.executable, "-c", "raise SystemExit('no weights')"]},
            ["exit status 1", "no weights"],
        ),
        ({"kind": "command", "command": ["sleep", "60"], "timeout": 0.5}, ["did not answer within 0.5 s"]),
    ],
)
def test_an_objective_that_cannot_work_is_found_before_anything_is_spent(
    bare_project: Project, section: dict, expected: list[str]
):
    bare_project.verb("init", bare_project.configuration("wrong", programmed={"mine": section})).refused(*expected)
    assert not (bare_project.runs / "wrong").exists()


@pytest.fixture
def small_disk(tmp_path: Path):
    """A real file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True, text=True, timeout=30
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=30)


def test_too_little_disk(bare_project: Project, small_disk: Path):
    config = bare_project.configuration(
        "full", storage={"root": str(small_disk / "runs")}, prompts={"groups_per_epoch": 200}
    )
    bare_project.verb("init", config).refused("MB", str(small_disk), "storage.root")
    assert not (small_disk / "runs").exists()


# ---- a run folder made with another configuration ------------------------------------------------------------------------


def test_run_fields_are_frozen_and_the_difference_is_shown(bare_project: Project):
    config = bare_project.configuration("frozen")
    bare_project.verb("init", config).good()
    bare_project.verb("init", config, "--seed", "1", "--lora.rank", "3").refused(
        "runs/frozen", "seed: was 0, is 1", "lora.rank: was 2, is 3", "--run NAME"
    )


@pytest.mark.parametrize(
    "override",
    [
        ["--training.learning_rate", "0.5"],
        ["--prompts.groups_per_epoch", "3"],
        ["--labels.judgements_per_group", "2"],
        ["--orchestration.threads", "2"],
    ],
)
def test_other_fields_are_not_frozen_by_the_run(bare_project: Project, override: list[str]):
    config = bare_project.configuration("thawed")
    bare_project.verb("init", config).good()
    bare_project.verb("init", config, *override).good()


# ---- nobody answers -----------------------------------------------------------------------------------------------------


def test_label_studio_is_not_given(bare_project: Project):
    bare_project.verb("init", bare_project.configuration("nobody", **PEOPLE)).refused(
        "LABEL_STUDIO_URL", "d3po services up"
    )


def test_label_studio_does_not_answer(bare_project: Project):
    bare_project.verb(
        "init", bare_project.configuration("nobody", **PEOPLE),
        LABEL_STUDIO_URL="http://127.0.0.1:9", LABEL_STUDIO_API_KEY="f" * 40,
    ).refused("127.0.0.1:9", "d3po services")  # fmt: skip
    assert not (bare_project.runs / "nobody").exists()


def test_no_key_and_no_secret_block(bare_project: Project):
    """Where the environment has no key, Prefect's secret block is asked: here, there is no Prefect server either."""
    bare_project.verb(
        "init", bare_project.configuration("nobody", **PEOPLE), LABEL_STUDIO_URL="http://127.0.0.1:9"
    ).refused("LABEL_STUDIO_API_KEY")


def test_prefect_does_not_answer(bare_project: Project):
    config = bare_project.configuration("alone")
    bare_project.verb("init", config).good()
    for verb in (["run", config], ["status", "runs/alone", "--wait-for", "people", "--timeout", "1"]):
        if verb[0] == "run":
            bare_project.verb(*verb, PREFECT_API_URL=NOBODY).refused("Prefect server", NOBODY, "d3po services up")


def test_run_here_without_a_prefect_server(bare_project: Project):
    """In a process of its own: Prefect would start a server that forgets everything at exit, which nobody asked for."""
    config = bare_project.configuration("alone")
    bare_project.d3po("run", config, "--here", PREFECT_API_URL=NOBODY).refused(NOBODY, "d3po services up")


@pytest.mark.parametrize("verb", ["status", "annotate", "audit", "heal", "recover", "report"])
def test_there_is_no_such_run(bare_project: Project, verb: str):
    bare_project.verb(verb, "runs/nowhere").refused("nowhere", "d3po init")


def test_adapters_that_are_none(bare_project: Project):
    config = bare_project.configuration("nothing-to-compare", evaluation={"prompts": "prompts.txt"})
    for given in ([], ["--adapter", "A"], ["--adapter", "=runs/x"], ["--adapter", "A=x", "--adapter", "A=y"]):
        bare_project.verb("evaluate", config, *given).refused("expected NAME=RUN:EPOCH")
    bare_project.verb("evaluate", config, "--adapter", "A=runs/not-there:0").refused("There is no run 'not-there'")
    assert not (bare_project.runs / "evaluations").exists()


def test_there_is_no_such_evaluation(bare_project: Project):
    for command in (["results"], ["start"]):
        candidates = ["base", "A"] if command == ["start"] else []
        done = bare_project.verb("ab", *command, "runs/evaluations/not-there", *candidates)
        done.refused("there is no evaluation in runs/evaluations/not-there", "d3po evaluate")


def test_a_file_that_is_no_data_set(bare_project: Project):
    config = bare_project.configuration("imports")
    bare_project.verb("import", config, "prompts.txt").refused("prompts.txt cannot be read as parquet")
    assert not (bare_project.runs / "imports").exists()


def test_a_run_without_epochs(bare_project: Project):
    bare_project.verb("init", bare_project.configuration("young")).good()
    assert "no epoch yet" in bare_project.verb("status", "runs/young").good().out
    for verb in (["heal"], ["report"], ["audit"], ["annotate"], ["export"]):
        folder = ["out"] if verb == ["export"] else []
        bare_project.verb(*verb, "runs/young", *folder).refused("epoch", "d3po status")


def test_services_are_not_there(bare_project: Project):
    for verb in ("down", "status"):
        bare_project.verb("services", verb).refused("no services", "d3po services up")


# ---- with services --------------------------------------------------------------------------------------------------------


def test_the_key_is_wrong(project: Project):
    project.verb("init", project.configuration("wrong-key", **PEOPLE), LABEL_STUDIO_API_KEY="f" * 40).refused(
        "key", "LABEL_STUDIO_API_KEY"
    )


def test_the_key_comes_from_a_secret_block(project: Project):
    from prefect.blocks.system import Secret

    from tasks.labels.connection import SECRET_BLOCK

    config = project.configuration("secret", **PEOPLE)
    with project.entered():
        import os

        key = os.environ["LABEL_STUDIO_API_KEY"]
    project.verb("init", config, LABEL_STUDIO_API_KEY="").refused(SECRET_BLOCK)
    with project.entered():
        Secret(value=key).save(SECRET_BLOCK, _sync=True)
    try:
        assert "Label Studio" in project.verb("init", config, LABEL_STUDIO_API_KEY="").good().out
    finally:
        with project.entered():
            Secret.delete(SECRET_BLOCK, _sync=True)


def test_there_is_no_such_deployment(project: Project):
    """A server that never saw prefect.yaml."""
    from flows.flow_runs import EPOCH, prefect_client

    config = project.configuration("undeployed")
    with project.entered(), prefect_client() as client:
        deployment = client.read_deployment_by_name(EPOCH)
        client.delete_deployment(deployment.id)
    try:
        project.verb("run", config).refused(EPOCH, "prefect --no-prompt deploy --all")
    finally:
        project.prefect("--no-prompt", "deploy", "--all").good()


def test_configuration_as_an_object_is_the_same(bare_project: Project):
    from tasks.config_reading import load_configuration

    name = bare_project.configuration("same")
    values = yaml.safe_load((bare_project.folder / name).read_text())
    assert load_configuration(values) == load_configuration(bare_project.folder / name)
    assert len(PROMPTS) == 8
