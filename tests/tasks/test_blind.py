"""Blind comparisons through a real Label Studio: what people see tells nothing, and what they said is counted right."""

import hashlib
import json
import re
import secrets
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from d3po_core.records import Judgement
from d3po_core.statistics import wilson_share
from storage import evaluation as stored
from storage.documents import encode
from storage.evaluation import Evaluation
from tasks.config import Configuration
from tasks.config_reading import load_configuration
from tasks.errors import UserError
from tasks.evaluation.blind import Blind, start_blind
from tasks.evaluation.blind_results import count, pull_blind
from tasks.evaluation.candidates import candidates_of, policy_of
from tasks.evaluation.evaluate import evaluate
from tasks.evaluation.evaluation_page import BLIND_RESULTS_FORMAT, write_page
from tasks.label_studio.parse import PushPlan
from tasks.label_studio.screens import compare_screen, result_for
from tests.support.label_studio import LabelStudioServer
from tests.support.project import PROMPTS, Project


@pytest.fixture
def configuration(
    at_home: Project, label_studio: LabelStudioServer, request, monkeypatch: pytest.MonkeyPatch
) -> Configuration:
    root = label_studio.document_root / request.node.name
    root.mkdir()
    (root / "held-out.txt").write_text("\n".join(PROMPTS))
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.api_key)
    monkeypatch.setenv("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", str(label_studio.document_root))
    fields = {"prompts": str(root / "held-out.txt"), "images_per_prompt": 1, "etas": [1.0]}
    return load_configuration(at_home.configuration("blind", storage={"root": str(root)}, evaluation=fields))


@pytest.fixture
def evaluation(configuration: Configuration, tmp_path: Path, request, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    """The pretrained model, and an adapter that says so in its name; its id, which the sides come of, is the test's."""
    import torch

    own = hashlib.sha256(request.node.name.encode()).hexdigest()
    drawn = SimpleNamespace(token_hex=lambda size: own[:12] if size == 6 else secrets.token_hex(size))
    monkeypatch.setattr(stored, "secrets", drawn)

    policy = policy_of(configuration, candidates_of(configuration, {})[0], 1.0)
    torch.manual_seed(5)
    policy.load_lora_state({name: torch.randn_like(value) for name, value in policy.lora_state().items()})
    policy.export_adapter(tmp_path / "adapter")
    return evaluate(configuration, {"Tuned": str(tmp_path / "adapter")})


@pytest.fixture
def blind(configuration: Configuration, evaluation: Evaluation) -> Blind:
    return start_blind(configuration, evaluation, ("base", "Tuned"))


def answer(server: LabelStudioServer, blind: Blind, chosen: dict[str, str]) -> None:
    """Leave an answer as a person would: comparison → a candidate's name, ``tie`` or ``both_bad``."""
    client = server.connect()
    for id, choice in chosen.items():
        sides = dict(zip((blind.owners[name] for name in blind.plan.orders[id]), ("left", "right"), strict=True))
        result = result_for(blind.plan.screen, verdict=sides.get(choice, choice))
        client.annotate(blind.ls_tasks[blind.plan.uid(id)][0], result, seconds=2.0)


def test_nothing_that_is_shown_tells_whose_image_it_is(blind: Blind, evaluation: Evaluation, label_studio):
    """Everything that Label Studio holds of it, and every address that a browser asks for."""
    client = label_studio.connect()
    tasks = client.tasks(blind.project)
    settings = label_studio.request("GET", f"/api/projects/{blind.project}").json()
    assert len(tasks) == len(PROMPTS)
    addresses = []
    for [(_, data)] in tasks.values():
        assert data.keys() == {"uid", "prompt", "html_0", "html_1"}
        addresses += [re.search(r'src="([^"]+)"', data[f"html_{side}"])[1] for side in (0, 1)]
    shown = json.dumps([data for [(_, data)] in tasks.values()]) + json.dumps(settings)
    assert re.search(r"(?i)\b(base|tuned)\b", shown) is None
    names = [Path(address).name for address in addresses]
    assert len(set(names)) == 2 * len(PROMPTS)
    assert all(re.fullmatch(r"[0-9a-f]{16}\.png", name) for name in names)
    answers = [label_studio.request("GET", address) for address in addresses]
    assert {(one.status_code, one.headers["content-type"]) for one in answers} == {(200, "image/png")}


def test_sides_are_shuffled_and_written_down_before_the_import(blind: Blind, evaluation: Evaluation, request):
    assert evaluation.settings()["id"] == hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    first = [blind.owners[order[0]] for order in blind.plan.orders.values()]
    assert set(first) == {"base", "Tuned"}
    for order in blind.plan.orders.values():
        assert {blind.owners[name] for name in order} == {"base", "Tuned"}
    folder = Path(evaluation.location, "blind", "0000")
    assert (folder / "plan.json").stat().st_mtime <= (folder / "push.json").stat().st_mtime
    assert Image.open(folder / "media" / f"{next(iter(blind.owners))}.png").size == (16, 16)


def test_instructions_for_marking_are_not_shown_over_two_pictures(
    configuration: Configuration, evaluation: Evaluation, label_studio: LabelStudioServer, tmp_path: Path
):
    fields = configuration.evaluation.model_copy(update={"etas": (1.0, 0.0)})
    both = evaluate(configuration.model_copy(update={"evaluation": fields}), {"Tuned": str(tmp_path / "adapter")})
    own, text = compare_screen().instructions, "Look closely."
    for screen, eta, said in (("mark", 1.0, own), ("compare", 0.0, text)):
        labels = configuration.labels.model_copy(update={"screen": screen, "instructions": text})
        blind = start_blind(configuration.model_copy(update={"labels": labels}), both, ("base", "Tuned"), eta=eta)
        settings = label_studio.request("GET", f"/api/projects/{blind.project}").json()
        assert settings["expert_instruction"] == said


def test_asking_again_is_the_same_project(
    configuration: Configuration, evaluation: Evaluation, blind: Blind, label_studio
):
    (Path(evaluation.location) / "blind" / "0000" / "push.json").unlink()  # killed before it was written
    again = start_blind(configuration, evaluation, ("Tuned", "base"))
    assert again == blind
    assert label_studio.connect().count(blind.project) == len(PROMPTS)


def test_answers_are_counted_for_the_candidate_whose_image_it_was(
    blind: Blind, evaluation: Evaluation, label_studio: LabelStudioServer
):
    ids = list(blind.plan.orders)
    said = ["Tuned"] * 4 + ["base", "tie", "both_bad"]
    answer(label_studio, blind, dict(zip(ids, said, strict=False)))
    found = pull_blind(evaluation, 0)
    assert (found["judged"], found["comparisons"], found["complete"]) == (7, 8, False)
    counts = {
        name: [one[kind] for kind in ("wins", "losses", "ties", "both_bad")]
        for name, one in found["candidates"].items()
    }
    assert counts == {"base": [1, 4, 1, 1], "Tuned": [4, 1, 1, 1]}
    expected = wilson_share(4, 7)
    assert found["candidates"]["Tuned"]["win_rate"] == {
        "value": expected.value, "low": expected.low, "high": expected.high,
    }  # fmt: skip
    answer(label_studio, blind, {ids[7]: "Tuned"})
    found = pull_blind(evaluation, 0)
    assert (found["complete"], found["candidates"]["Tuned"]["wins"], found["people"]) == (True, 5, 1)
    page = evaluation.read("evaluation.html").decode()
    assert "Blind comparison: base against Tuned" in page
    assert "8 of 8 comparisons" in page
    for said in ("win rate [95 %, Wilson]", "judgements for it [95 %, bootstrapped over the prompts]"):
        assert said in page
    results = json.loads(evaluation.read("blind/0000/results.json"))
    results["intervals"]["win_rate"] = "bootstrapped over the prompts"  # as of several images a prompt
    evaluation.write("blind/0000/results.json", encode(results, BLIND_RESULTS_FORMAT))
    write_page(evaluation)
    assert "Wilson" not in evaluation.read("evaluation.html").decode()
    assert evaluation.read("blind/0000/win-rates.svg").lstrip().startswith(b"<?xml")
    assert evaluation.read("blind/0000/export.json.gz")


def test_without_an_answer_there_is_no_rate(blind: Blind, evaluation: Evaluation):
    with pytest.raises(UserError, match="nobody has judged any of the 8 comparisons yet"):
        pull_blind(evaluation, 0)


def test_candidates_that_the_evaluation_does_not_have(configuration: Configuration, evaluation: Evaluation):
    for wrong in (("base", "base"), ("base", "other"), ("base",)):
        with pytest.raises(UserError, match="expected two different candidates"):
            start_blind(configuration, evaluation, wrong)
    with pytest.raises(UserError, match="has no blind comparison 7"):
        pull_blind(evaluation, 7)


def test_images_of_another_eta_are_a_comparison_of_their_own(
    configuration: Configuration, evaluation: Evaluation, blind: Blind, tmp_path: Path
):
    fields = configuration.evaluation.model_copy(update={"etas": (1.0, 0.0)})
    both = configuration.model_copy(update={"evaluation": fields})
    again = evaluate(both, {"Tuned": str(tmp_path / "adapter")})
    still = start_blind(both, again, ("base", "Tuned"), eta=0.0)
    assert (blind.number, still.number) == (0, 1)
    assert still.project != blind.project
    assert start_blind(both, again, ("base", "Tuned"), eta=1.0) == blind


def test_other_numbers_of_people_or_images_are_refused(
    configuration: Configuration, evaluation: Evaluation, blind: Blind
):
    assert start_blind(configuration, evaluation, ("base", "Tuned"), people=1, per_prompt=1).number == blind.number
    with pytest.raises(UserError, match="begun with 1 people and 1 images a prompt, and is to have 3 and 1"):
        start_blind(configuration, evaluation, ("base", "Tuned"), people=3)
    with pytest.raises(UserError, match=r"has no images at η = 0\.5; it has 1"):
        start_blind(configuration, evaluation, ("base", "Tuned"), eta=0.5)


# ---- counting ----------------------------------------------------------------------------------------------------------


def blind_on_paper(people: int) -> Blind:
    plan = PushPlan(run_id="r", epoch=0, screen=compare_screen(), orders={"c0": ("x", "y"), "c1": ("z", "w")})
    return Blind(
        number=0, candidates=("A", "B"), owners={"x": "A", "y": "B", "z": "B", "w": "A"}, plan=plan,
        prompts={"c0": "one", "c1": "another"}, people=people, project=1, ls_tasks={}, url="",
    )  # fmt: skip


def judgement(group: str, judge: str, answer: str, at: str = "2026-01-01T00:00:00") -> Judgement:
    levels = {"left": ((1.0,), (0.0,)), "right": ((0.0,), (1.0,))}.get(answer, ((0.0,), (0.0,)))
    order = blind_on_paper(1).plan.orders[group]
    verdict = "prefer" if answer in ("left", "right") else answer
    return Judgement(
        id=f"{group}{judge}{at}",
        group_id=group,
        judge=judge,
        verdict=verdict,
        trajectory_ids=order,
        levels=levels,
        updated_at=at,
    )


def test_more_than_half_of_a_comparisons_judgements_win_it():
    said = [
        *(judgement("c0", judge, answer) for judge, answer in (("1", "left"), ("2", "left"), ("3", "right"))),
        *(judgement("c1", judge, answer) for judge, answer in (("1", "left"), ("2", "right"))),
    ]
    found = count(blind_on_paper(3), said)
    assert (found["candidates"]["A"]["wins"], found["candidates"]["B"]["wins"]) == (1, 0)
    assert found["candidates"]["A"]["ties"] == 1
    assert found["candidates"]["A"]["win_rate"]["value"] == 1 / 2
    assert found["candidates"]["A"]["favoured"]["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["candidates"]["B"]["favoured"]["value"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found["complete"] is False
    assert (found["judgements"], found["people"]) == (5, 3)
    assert found["chose_left"]["value"] == pytest.approx(3 / 5)


def test_images_of_one_prompt_are_not_counted_as_independent():
    said = [judgement("c0", "1", "left"), judgement("c1", "1", "right")]
    bootstrap = "bootstrapped over the prompts"
    found = count(blind_on_paper(1), said)
    apart = found["candidates"]["A"]
    assert found["intervals"] == {"win_rate": "Wilson", "favoured": bootstrap}
    assert apart["win_rate"] == {"value": 1.0, "low": pytest.approx(0.342, abs=1e-3), "high": 1.0}, "Wilson, 2 of 2"
    paper = blind_on_paper(1)
    found = count(replace(paper, prompts=dict.fromkeys(paper.prompts, "one")), said)
    together = found["candidates"]["A"]
    assert found["intervals"] == {"win_rate": bootstrap, "favoured": bootstrap}
    for what in ("win_rate", "favoured"):
        assert together[what] == {"value": 1.0, "low": None, "high": None}, "one prompt has no spread"


def test_of_one_persons_several_answers_the_latest_counts():
    said = [judgement("c0", "1", "left", "2026-01-02T00:00:00"), judgement("c0", "1", "right")]
    found = count(blind_on_paper(1), said)
    assert found["candidates"]["A"]["wins"] == 1
    assert found["judgements"] == 1
