"""Known answers and repeated groups through a real Label Studio: met by people, never trained on, never waited for."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.large_epoch import write_shards
from storage.tables import JUDGES, read_rows
from tasks.config_reading import load_configuration
from tasks.context import EpochContext
from tasks.errors import UserError
from tasks.generation.plan import make_plan
from tasks.label_studio.client import LabelStudioClient
from tasks.label_studio.screens import result_for
from tasks.labels.annotate import simulate_annotators
from tasks.labels.gold import check_gold, mix_in, read_gold
from tasks.labels.judges import agreement_now, agreement_of_epoch, doubts, shown_rows
from tasks.labels.media import media_folder
from tasks.labels.pull import gold_answers, judgements_of, labels_progress, late_judgements, pull
from tasks.labels.push import push, push_plan, pushed
from tasks.labels.repeats import repeated
from tasks.training.attempt import training_attempt
from tasks.training.training_plan import pairs_of, training_plan
from tests.support.gold import write_gold
from tests.support.label_studio import LabelStudioServer
from tests.support.project import REPOSITORY, Project
from tests.tasks.conftest import Begin, context_of


@pytest.fixture
def shown(at_home: Project, label_studio: LabelStudioServer, request, monkeypatch, tmp_path: Path) -> EpochContext:
    """Six groups, half of them for two people, and as many known answers; pushed."""
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.api_key)
    monkeypatch.setenv("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", str(label_studio.document_root))
    labels = {
        "source": "people", "repeat_fraction": 0.5, "gold": write_gold(tmp_path / "gold"), "gold_fraction": 0.5,
    }  # fmt: skip
    root = label_studio.document_root / request.node.name
    configuration = at_home.configuration("unit", storage={"root": str(root)}, labels=labels)
    context = context_of(load_configuration(configuration), 0)
    make_plan(context)
    write_shards(context)
    push.fn(context)
    return context


@pytest.fixture
def client(label_studio: LabelStudioServer) -> LabelStudioClient:
    return label_studio.connect()


def ls_task(context: EpochContext, name: str) -> int:
    return pushed(context)["ls_tasks"][push_plan(context).uid(name)][0]


def answer(context: EpochContext, client: LabelStudioClient, name: str, verdict: str, user: int, seconds: float = 2.0):
    client.annotate(ls_task(context, name), result_for(push_plan(context).screen, verdict), user, seconds)


def rightly(context: EpochContext, name: str) -> str:
    known = push_plan(context).gold[name]
    return "left" if known.order[0] in known.good else "right"


def test_nobody_can_tell_them_apart(shown: EpochContext, client: LabelStudioClient):
    plan, project = push_plan(shown), pushed(shown)["project"]
    assert len(plan.gold) == 6, "half of all that is shown"
    assert not set(plan.gold) & set(plan.orders)
    found = client.tasks(project)
    assert set(found) == {plan.uid(name) for name in plan.shown}
    assert {tuple(data) for [(_, data)] in found.values()} == {("uid", "prompt", "html_0", "html_1")}
    form = re.compile(r'<img src="/data/local-files/\?d=[^"]*/unit/epochs/0000/media/g\d{6}-[01]\.png">')
    assert all(form.fullmatch(data[key]) for [(_, data)] in found.values() for key in ("html_0", "html_1"))
    in_order = [uid.rpartition("/")[2] in plan.gold for uid in sorted(found, key=lambda uid: found[uid][0][0])]
    assert in_order not in ([False] * 6 + [True] * 6, [True] * 6 + [False] * 6), "shuffled among the groups"
    assert len({known.good == known.order[:1] for known in plan.gold.values()}) == 2, "good ones on both sides"
    folder, _ = media_folder(shown.configuration)
    assert len(list(folder.rglob("media/*.png"))) == 24


def test_the_queue_shows_repeated_groups_to_one_more_person(
    shown: EpochContext, client: LabelStudioClient, label_studio: LabelStudioServer
):
    """As an annotator meets it: after somebody else has answered everything, only the repeated groups are left."""
    plan, project = push_plan(shown), pushed(shown)["project"]
    other = client.create_user("other@example.invalid")
    for name in plan.shown:
        answer(shown, client, name, "left", other)
    done = labels_progress(shown)
    assert (done.needed, done.given, len(done.open)) == (9, 6, 3)
    assert set(done.open) == repeated(shown)
    met = []
    while (asked := label_studio.request("GET", f"/api/projects/{project}/next")).status_code == 200:
        met.append(asked.json()["data"]["uid"].rpartition("/")[2])
        client.annotate(asked.json()["id"], result_for(plan.screen, "right"))
    assert sorted(met) == sorted(repeated(shown))
    assert labels_progress(shown).complete


def test_known_answers_are_measured_and_never_trained_on(
    shown: EpochContext, client: LabelStudioClient, label_studio: LabelStudioServer, at_home: Project
):
    plan = push_plan(shown)
    clicker, careful = client.create_user("clicker@example.invalid"), client.whoami()
    for group in plan.orders:
        answer(shown, client, group, "left", careful, seconds=4.0)
    for group in repeated(shown):
        answer(shown, client, group, "left", clicker, seconds=0.5)
    done = labels_progress(shown)
    assert done.complete, "nobody waits for known answers"
    for name in plan.gold:
        answer(shown, client, name, rightly(shown, name), careful)
        answer(shown, client, name, "left", clicker)
    assert labels_progress(shown).per_judge == done.per_judge
    now = agreement_now(shown)
    environment = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.api_key}
    while_they_judge = at_home.verb("people", shown.run.location, **environment).good().out
    pull.fn(shown)
    assert at_home.verb("people", shown.run.location).good().out == while_they_judge
    assert f"user:{careful}" in while_they_judge
    assert "100% of 6" in while_they_judge
    assert "Krippendorff's alpha of epoch 0: 1.000" in while_they_judge
    assert agreement_of_epoch(shown) == now, "the same from Label Studio and from what was pulled"
    assert {one.group_id for one in judgements_of(shown)} == set(plan.orders)
    assert {one.group_id for one in gold_answers(shown)} == set(plan.gold)
    assert late_judgements(shown) == 0

    one, other = sorted(now.judges, key=lambda judge: judge.gold_accuracy, reverse=True)
    lucky = sum(rightly(shown, name) == "left" for name in plan.gold) / 6
    assert (one.judge, one.gold_answers, one.gold_accuracy) == (f"user:{careful}", 6, 1.0)
    assert (other.judge, other.gold_answers, other.gold_accuracy) == (f"user:{clicker}", 6, lucky)
    assert (one.seconds_median, other.seconds_median, other.agreement) == (4.0, 0.5, 1.0)
    [doubt] = doubts(now, shown.configuration.labels.gold_floor)
    assert f"user:{clicker} told {lucky:.0%} of 6 known answers" in doubt

    attempt = training_attempt(shown)
    assert {pair.group_id for pair in pairs_of(shown, attempt)} == set(plan.orders)
    rows = read_rows(shown.epoch.fetch(attempt, "judges.parquet"), JUDGES)
    assert [row["judge"] for row in rows] == [judge.judge for judge in now.judges]
    assert training_plan(shown.epoch, attempt)["metrics"]["data/gold_accuracy"] == pytest.approx((1 + lucky) / 2)
    text = json.dumps([*rows, *shown_rows(now)])
    assert "@" not in text
    assert "example" not in text


def test_simulated_people_answer_what_is_open_and_the_known(shown: EpochContext, client: LabelStudioClient):
    left = simulate_annotators(shown, objectives=["jpeg_compressibility"], error_rate=0.0, judges=1)
    assert sorted(left.values()) == [3, 12], "the groups and known answers once, half of the groups once more"
    pull.fn(shown)
    judges = agreement_of_epoch(shown).judges
    assert [one.gold_accuracy for one in judges if one.gold_answers] == [1.0]
    assert [one.agreement for one in judges] == [1.0, 1.0]
    assert simulate_annotators(shown, objectives=["jpeg_compressibility"], error_rate=0.0, judges=1) == {}


# ---- what is refused, without Label Studio ----------------------------------------------------------------------------


def test_the_demos_set_is_readable_and_says_what_the_demo_asks_for():
    import numpy as np
    from PIL import Image

    from d3po_core.programmed import jpeg_size_kb
    from tasks.generation.prompts import read_prompts

    rows = read_gold(str(REPOSITORY / "assets/shapes/gold/gold.csv"), 2)
    check_gold(rows, 64)
    known = set(read_prompts(str(REPOSITORY / "assets/shapes/prompts-train.txt")))
    for row in rows:
        assert row.prompt in known
        good, bad = jpeg_size_kb(np.stack([np.asarray(Image.open(file)) for file in row.images]))
        assert good < 0.85 * bad, f"{row.good} is not plainly the plainer one"


def test_several_images_a_comparison_are_drawn_by_seed_and_epoch(begin: Begin, tmp_path: Path):
    file = Path(write_gold(tmp_path / "gold"))
    file.write_text("prompt,good,bad\na,0-calm.png;1-calm.png,0-loud.png\nb,2-calm.png,1-loud.png; 2-loud.png\n")

    def mixed(run: str, seed: int, folder: str) -> dict:
        labels = {"source": "people", "screen": "mark", "gold": str(file), "gold_fraction": 0.25}
        context = begin(run, labels=labels, sampling={"group_size": 3, "groups_per_batch": 2})
        values = context.configuration.model_copy(update={"seed": seed})
        context = type(context)(configuration=values, run=context.run, number=0)
        make_plan(context)
        return dict(mix_in(context, tmp_path / folder))

    first = mixed("one", 1, "a")
    assert list(first) == ["g000006", "g000007"], "a quarter of what is shown, after the groups"
    assert sorted((known.prompt, len(known.good)) for known in first.values()) == [("a", 2), ("b", 1)]
    assert mixed("two", 1, "b") == first
    assert any(mixed(f"s{seed}", seed, f"c{seed}") != first for seed in (2, 3, 4))
    for name, known in first.items():
        assert known.order == tuple(f"{name}-{image}" for image in range(3))
        sizes = {id: (tmp_path / "a" / f"{id}.png").stat().st_size for id in known.order}
        assert max(sizes[id] for id in known.good) < min(sizes[id] for id in set(known.order) - set(known.good))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("prompt,good\na,x.png\n", "lacks the column bad"),
        ("prompt,good,bad\n", "holds no known answer"),
        ("prompt,good,bad\na,0-calm.png,\n", "line 2: expected a prompt and 2 images.* found 1 good and 0 bad"),
        ("prompt,good,bad\na,0-calm.png,0-loud.png;1-loud.png\n", "found 1 good and 2 bad"),
        ("prompt,good,bad\n,0-calm.png,0-loud.png\n", "line 2: expected a prompt"),
        ("prompt,good,bad\na,0-calm.png,9.png\n", "line 2: there is no image .*9.png"),
    ],
)
def test_a_table_that_says_something_else_is_refused_by_line(tmp_path: Path, content: str, said: str):
    file = Path(write_gold(tmp_path))
    file.write_text(content)
    with pytest.raises(UserError, match=said):
        read_gold(str(file), 2)


def test_images_that_give_themselves_away_are_refused(tmp_path: Path):
    rows = read_gold(write_gold(tmp_path, size=24), 2)
    check_gold(rows, 24)
    with pytest.raises(UserError, match="24×24 pixels, the epoch's images have 16×16"):
        check_gold(rows, 16)
    (tmp_path / "0-calm.png").write_text("no image")
    with pytest.raises(UserError, match="is no image"):
        check_gold(rows, 24)


def test_no_file_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UserError, match="no file of known answers at"):
        read_gold(str(tmp_path / "gold.csv"), 2)


@pytest.mark.parametrize("labels", [{"gold": "gold.csv"}, {"gold_fraction": 0.1}])
def test_a_file_needs_a_share_and_a_share_a_file(labels: dict):
    with pytest.raises(UserError, match="known answers need both"):
        load_configuration({"run": "r", "model": {"path": "m"}, "prompts": {"file": "p.txt"}, "labels": labels})
