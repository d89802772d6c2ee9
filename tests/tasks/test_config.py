"""One tree from YAML, options and objects; every mistake named; what may change when."""

from pathlib import Path

import pytest

from tasks.config import Configuration, field_classes
from tasks.config_changes import changed_fields
from tasks.config_reading import load_configuration, parse_configuration
from tasks.errors import UserError
from tests.support.project import REPOSITORY

SMALL = {"run": "r", "model": {"path": "m"}, "prompts": {"file": "p.txt"}}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_committed_configuration_is_valid(path: Path):
    configuration = load_configuration(path)
    assert configuration.run
    assert path.read_text(encoding="utf-8").startswith("# "), "it begins with what it is for"


def test_options_win_over_the_file_and_leave_the_rest(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("run: r\nmodel: {path: m, dtype: float16}\nprompts: {file: p.txt}\nlora: {rank: 8}\n")
    found = load_configuration(
        file, ["--lora.alpha", "3", "--model.device", "cpu", "--training.learning_rate", "1e-4", "--seed", "7"]
    )
    assert (found.lora.rank, found.lora.alpha, found.seed) == (8, 3.0, 7)
    assert (found.model.dtype, found.model.device, found.training.learning_rate) == ("float16", "cpu", 1e-4)
    assert found.sampling.eta == 1.0


def test_lists_on_the_command_line():
    found = load_configuration(SMALL, ["--lora.target_modules", '["to_q","to_v"]'])
    assert found.lora.target_modules == ("to_q", "to_v")


def test_the_same_tree_survives_json():
    """What goes to the training process and into run.json."""
    configuration = parse_configuration({**SMALL, "sampling": {"eta": 0.5}}, "here")
    assert Configuration.model_validate_json(configuration.model_dump_json()) == configuration


def test_it_is_frozen():
    configuration = parse_configuration(SMALL, "here")
    with pytest.raises(ValueError, match="frozen"):
        configuration.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "a b", "x" * 65])
def test_run_names_that_are_no_folders(name: str):
    with pytest.raises(UserError, match="run"):
        parse_configuration({**SMALL, "run": name}, "here")


def test_a_number_is_a_run_name_too():
    assert parse_configuration({**SMALL, "run": 7}, "here").run == "7"


def test_classes_partition_the_fields():
    configuration = parse_configuration(SMALL, "here")
    by_class = {kind: configuration.section_of_class(kind) for kind in set(dict(field_classes(Configuration)).values())}
    fields = [path for section in by_class.values() for path in section]
    assert sorted(fields) == sorted(dict(field_classes(Configuration)))
    assert by_class["training"]["training.learning_rate"] == 3e-5
    assert by_class["run"]["lora.target_modules"] == ["to_q", "to_k", "to_v", "to_out.0"]


def test_differences_are_readable():
    before = {"lora.rank": 1, "c": "x", "same": [1]}
    now = {"lora.rank": 2, "d": 3, "new and empty": None, "same": [1]}
    found = changed_fields(now, before)
    assert found == ["c: was 'x', is 'not set'", "d: was 'not set', is 3", "lora.rank: was 1, is 2"]


def test_a_field_that_an_older_version_did_not_know_had_its_default():
    older = {"training.learning_rate": 1e-3}
    same = older | {"training.gradient_checkpointing": False, "training.memory_budget_mb": None}
    assert changed_fields(same, older) == []
    changed = older | {"training.gradient_checkpointing": True}
    assert changed_fields(changed, older) == ["training.gradient_checkpointing: was False, is True"]


@pytest.mark.parametrize(
    ("wrong", "suggested"),
    [
        ({"sampling": {"guidence_scale": 1}}, "sampling.guidance_scale"),
        ({"training": {"learning_rat": 1}}, "training.learning_rate"),
        ({"labels": {"judgments_per_group": 1}}, "labels.judgements_per_group"),
        ({"prompts": {"file": "p", "group_per_epoch": 1}}, "prompts.groups_per_epoch"),
    ],
)
def test_a_misspelt_field_is_met_with_a_suggestion(wrong: dict, suggested: str):
    with pytest.raises(UserError, match=f"did you mean {suggested}"):
        parse_configuration({**SMALL, **wrong}, "here")


def test_d3po_wants_one_initial_noise():
    with pytest.raises(UserError, match="shared_initial_noise"):
        parse_configuration({**SMALL, "sampling": {"shared_initial_noise": False}}, "here")
