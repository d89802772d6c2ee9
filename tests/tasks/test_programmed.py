"""Objectives by their names: loaded once, refused at once, compared by Pareto; what an older version wrote is read."""

import json
import sys

import numpy as np
import pytest

from d3po_core.errors import ObjectiveError
from d3po_core.preferences import judgements_to_pairs
from tasks.config_changes import changed_fields
from tasks.config_reading import load_configuration, parse_configuration
from tasks.context import planned_context
from tasks.errors import UserError
from tasks.generation.plan import make_plan
from tasks.labels.pull import judgements_of, programmed_values
from tasks.programmed import programmed_objective, release, try_objectives
from tests.support.project import Project
from tests.tasks.conftest import Begin, again, generate_and_judge

SMALL = {"run": "r", "model": {"path": "m"}, "prompts": {"file": "p.txt"}}
MODULE = """
def red(images, prompts):
    return images[..., 0].mean(axis=(1, 2))
def upper(images, prompts):
    half = images.shape[1] // 2
    return images[:, :half].mean(axis=(1, 2, 3)) - images[:, half:].mean(axis=(1, 2, 3))
def broken(images, prompts):
    return [float("nan")] * len(prompts)
"""


@pytest.fixture(autouse=True)
def nothing_stays_loaded():
    yield
    release()


@pytest.fixture
def own(at_home: Project, monkeypatch: pytest.MonkeyPatch) -> dict:
    """``programmed`` sections with functions of a module in the project's folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (at_home.folder / "own_objectives.py").write_text(MODULE)
    return {
        name: {"kind": "python", "target": f"own_objectives:{name}", "unit": "levels"}
        for name in ("red", "upper", "broken")
    }


# ---- the configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"labels": {"objectives": []}}, r"labels.objectives: .* at least 1 item"),
        ({"labels": {"objectives": ["beauty"]}}, "no programmed objective 'beauty'; there are jpeg_compressibility, jpeg_in"),
        (
            {"programmed": {"b": {"kind": "python", "target": "m:f"}}, "evaluation": {"objectives": ["a"]}},
            "evaluation.objectives: there is no programmed objective 'a'; there are jpeg_compressibility, .*, b",
        ),
        ({"labels": {"objectives": ["jpeg_compressibility"] * 2}}, "names an objective twice"),
        ({"programmed": {"jpeg_compressibility": {"kind": "python", "target": "m:f"}}}, "cannot be called so"),
        ({"programmed": {"a+b": {"kind": "python", "target": "m:f"}}}, "programmed.a.b cannot be called so"),
        ({"programmed": {"a": {"kind": "pyton", "target": "m:f"}}}, "programmed.a: .*'pyton'.*'python'"),
        ({"programmed": {"a": {"target": "m:f"}}}, "programmed.a.kind: missing; there are aesthetic, clip_score"),
        ({"programmed": {"a": {"kind": "python"}}}, "programmed.a.target: missing"),
        ({"programmed": {"a": {"kind": "python", "targte": "m:f"}}}, "did you mean programmed.a.target"),
        ({"programmed": {"a": {"kind": "command", "command": []}}}, "programmed.a.command: .* at least 1 item"),
        ({"programmed": {"a": {"kind": "command", "command": ["x"], "timeout": 0}}}, "programmed.a.timeout: .*greater"),
    ],
)  # fmt: skip
def test_wrong_names_and_sections_are_refused_at_once(sections: dict, said: str):
    with pytest.raises(UserError, match=said):
        parse_configuration({**SMALL, **sections}, "here")


def test_sections_on_the_command_line():
    option = json.dumps({"mine": {"kind": "command", "command": ["python", "w.py"]}})
    found = load_configuration(
        SMALL, ["--programmed", option, "--labels.objectives", '["mine", "jpeg_compressibility"]']
    )
    assert found.labels.objectives == ("mine", "jpeg_compressibility")
    assert found.programmed["mine"].command == ("python", "w.py")
    assert parse_configuration(found.model_dump(mode="json"), "here") == found


def test_what_version_0_1_0_wrote_is_read():
    """It knew one objective, ``labels.objective``: in run.json, and frozen in plans."""
    found = parse_configuration({**SMALL, "labels": {"objective": "jpeg_incompressibility"}}, "run.json")
    assert found.labels.objectives == ("jpeg_incompressibility",)
    now = found.section_of_class("labels")
    before = {name: value for name, value in now.items() if name != "labels.objectives"}
    assert changed_fields(now, {**before, "labels.objective": "jpeg_incompressibility"}) == []
    assert changed_fields(now, {**before, "labels.objective": "jpeg_compressibility"}) == [
        "labels.objectives: was ['jpeg_compressibility'], is ['jpeg_incompressibility']"
    ]


# ---- loading -----------------------------------------------------------------------------------------------------------


def test_each_is_loaded_once_and_let_go(own: dict):
    configuration = parse_configuration({**SMALL, "programmed": own}, "here")
    first = programmed_objective(configuration, "red")
    assert programmed_objective(configuration, "red") is first
    assert (first.name, first.unit) == ("red", "levels")
    release()
    assert programmed_objective(configuration, "red") is not first


def test_an_unknown_name_comes_with_the_names_there_are(own: dict):
    configuration = parse_configuration({**SMALL, "programmed": own}, "here")
    with pytest.raises(UserError, match=r"'beauty'; there are jpeg_compressibility, .*, broken, red, upper\n"):
        programmed_objective(configuration, "beauty")


def test_each_looks_at_a_blank_picture(own: dict):
    del own["broken"]
    configuration = parse_configuration({**SMALL, "programmed": own, "labels": {"objectives": ["red"]}}, "here")
    said = dict(try_objectives(configuration, 16, "a red square"))
    assert list(said) == ["red", "jpeg_compressibility", "upper"]
    assert said["red"] == "127 for a blank picture (levels, higher is better)"


def test_a_bad_value_is_found_before_anything_is_spent(own: dict):
    configuration = parse_configuration({**SMALL, "programmed": own}, "here")
    with pytest.raises(ObjectiveError, match=r"broken gave nan for image blank \('a red square'\)"):
        list(try_objectives(configuration, 16, "a red square"))


# ---- judging -----------------------------------------------------------------------------------------------------------


def test_several_objectives_are_compared_by_pareto(begin: Begin, own: dict):
    del own["broken"]
    context = generate_and_judge(begin(labels={"objectives": ["red", "upper"]}, programmed=own))
    red, upper = programmed_values(context, "red"), programmed_values(context, "upper")
    judgements = judgements_of(context)
    for one in judgements:
        assert one.judge == "programmed:red+upper"
        assert one.levels == tuple((red[id], upper[id]) for id in one.trajectory_ids)
    wanted = {
        (winner, loser)
        for one in judgements
        for winner, loser in (one.trajectory_ids, one.trajectory_ids[::-1])
        if red[winner] >= red[loser] and upper[winner] >= upper[loser] and winner != loser
    }
    pairs, _ = judgements_to_pairs(judgements)
    assert {(pair.preferred, pair.dispreferred) for pair in pairs} == wanted
    assert 0 < len(wanted) < len(judgements), "some groups are decided, some are ties"
    details = context.epoch.latest("pull").details
    assert details["objectives"]["red"]["target"] == "own_objectives:red"


def test_a_value_that_is_none_names_the_image(begin: Begin, own: dict):
    context = begin(labels={"objectives": ["broken"]}, programmed=own)
    with pytest.raises(ObjectiveError, match=r"broken gave nan for image g000000-0 \('.+'\)"):
        generate_and_judge(context)
    assert context.epoch.latest("pull") is None


def test_the_plan_knows_what_its_names_mean(begin: Begin, own: dict):
    """A run that was made without an objective gets it in its second configuration file."""
    context = begin()
    later = load_configuration(
        context.configuration, ["--programmed", json.dumps(own), "--labels.objectives", '["upper"]']
    )
    make_plan(type(context)(configuration=later, run=context.run, number=0))
    seen = planned_context(context.configuration, again(context).run, 0).configuration
    assert seen.labels.objectives == ("upper",)
    assert seen.programmed["upper"].target == "own_objectives:upper"
    assert np.isfinite(programmed_objective(seen, "upper")(np.zeros((1, 4, 4, 3), np.uint8), [""])).all()
