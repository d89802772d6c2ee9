"""A run's report over its epochs: what it says is what is committed, and it stands alone."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d3po_core.drift import pixel_distance
from d3po_core.statistics import wilson_share
from storage.documents import encode
from storage.evaluation import Evaluation
from tasks.artifacts import address_of
from tasks.context import EpochContext
from tasks.evaluation.evaluation_page import BLIND_RESULTS_FORMAT, RESULTS_FORMAT
from tasks.evaluation.held_out import held_out
from tasks.policies import policy_for, state_after
from tasks.reports.history import history_of, objective_history, persons_work, trained_digest
from tasks.reports.report import report
from tasks.reports.run_report import write_run_report
from tasks.reports.training_panels import drift_panels, judgement_panels, objective_panels, training_panels

from .conftest import Begin, again, context_of, generate_and_judge, train_and_seal, with_fields


def page_of(context: EpochContext) -> str:
    return context.run.read_report("report.html").decode()


def epoch_page_of(context: EpochContext) -> str:
    return context.epoch.read_aside("report/report.html").decode()


def test_it_is_one_file_and_says_what_happened(two_epochs: EpochContext):
    page = page_of(two_epochs)
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=['\"]?(?:https?:|/)", page)
    for said in ("2 epochs of d3po", "24 judgements by 2 people", "person 3", "person 8", two_epochs.run.run_id):
        assert said in page
    for heading in ("Did it get better?", "Before and after", "Training", "Judgements", "Epochs", "Facts"):
        assert f"<h2>{heading}</h2>" in page
    assert "@" not in re.sub(r"@media", "", page)


def test_what_was_measured_otherwise_is_not_compared(two_epochs: EpochContext):
    """Held-out prompts and objectives may change between epochs: what comes before the change is another measure."""
    name = "jpeg_compressibility"
    first, second = history_of(two_epochs)
    for other in (
        replace(first, prompts=("another prompt",)),
        replace(first, definitions={name: {"kind": "another"}}),
    ):
        found = objective_history([other, second], name)
        assert (found.trained, found.since) == ([1, 2], "epoch 1's start")
        titles = [panel.title for panel in objective_panels([other, second])]
        assert "jpeg compressibility: change since epoch 1's start" in titles
    assert objective_history([first, second], name).since == "the start"
    elsewhere = replace(first, prompts=("another prompt",))
    assert [panel.lines[0].x for panel in drift_panels([elsewhere, second])] == [[2], [2]]


def test_the_digest_is_of_what_decided_the_epoch_alone(two_epochs: EpochContext):
    epoch = history_of(two_epochs)[-1]
    moved = with_fields(two_epochs, orchestration={"threads": 7}, training={"learning_rate": 9.0}).configuration
    assert trained_digest(replace(epoch, context=replace(epoch.context, configuration=moved))) == trained_digest(epoch)
    other = with_fields(two_epochs, lora={"rank": 1}).configuration
    assert trained_digest(replace(epoch, context=replace(epoch.context, configuration=other))) != trained_digest(epoch)


def test_the_start_is_the_first_epochs_and_differences_are_paired(two_epochs: EpochContext):
    first, second = history_of(two_epochs)
    found = objective_history([first, second], "jpeg_compressibility")
    assert found.trained == [0, 1, 2]
    before, last = np.array(first.before["jpeg_compressibility"]), np.array(second.after["jpeg_compressibility"])
    assert (found.means[0].value, found.means[2].value) == (before.mean(), last.mean())
    assert found.changes[0].value == 0
    assert found.changes[2].value == pytest.approx((last - before).mean())
    assert second.before == first.after


def test_a_win_is_a_held_out_image_better_than_the_starts(two_epochs: EpochContext):
    first, second = history_of(two_epochs)
    start = first.before["jpeg_compressibility"]
    second.after["jpeg_compressibility"][:] = [start[0], start[1] + 1, *(value - 1 for value in start[2:])]
    nothing, _, last = objective_history([first, second], "jpeg_compressibility").wins
    assert nothing is None, "at the start every image is the start's own"
    assert last is not None
    assert last == wilson_share(1, len(start) - 1)
    titles = [panel.title for panel in objective_panels([first, second])]
    assert "jpeg compressibility: win rate against the start" in titles


def test_drift_is_measured_from_the_pretrained_model_and_not_from_the_epoch_before(two_epochs: EpochContext):
    first, second = history_of(two_epochs)
    policy = policy_for(two_epochs.configuration)  # its adapter is as initialised: the pretrained model
    pretrained = held_out(two_epochs.configuration, policy).images
    policy.load_lora_state(state_after(two_epochs, second.number).lora)
    after = held_out(two_epochs.configuration, policy).images
    assert second.drift["pixels"] == pytest.approx(pixel_distance(after, pretrained).tolist())
    assert all(value > 0 for epoch in (first, second) for value in epoch.drift["kl"])
    assert len(second.drift["kl"]) == len(second.prompts)
    page = page_of(two_epochs)
    for title in ("How far from the pretrained model?", "KL to the pretrained model"):
        assert title in page


def test_what_people_did_and_how_fast(two_epochs: EpochContext):
    work = persons_work(history_of(two_epochs))
    assert [(one.judge, one.judgements, one.median_seconds) for one in work] == [
        ("user:3", 12, 4.0),
        ("user:8", 12, 12.0),
    ]
    assert [one.per_hour for one in work] == pytest.approx([900, 300])
    first, second = history_of(two_epochs)
    unknown = replace(first, judgements=[replace(one, seconds=None) for one in first.judgements])
    assert [(one.judgements, one.timed, one.per_hour) for one in persons_work([unknown, second])] == [
        (12, 6, pytest.approx(900)),
        (12, 6, pytest.approx(300)),
    ], "an hour is what the others say of it"
    assert history_of(two_epochs)[0].data["data/agreement"] == pytest.approx(5 / 6)
    alpha = history_of(two_epochs)[0].data["data/krippendorff_alpha"]
    page = page_of(two_epochs)
    assert "Krippendorff" in page
    assert f">{alpha:.2f}<" in page


def test_what_an_objective_does_not_measure_is_left_out(two_epochs: EpochContext):
    epochs = history_of(two_epochs)
    titles = [panel.title for panel in training_panels(epochs)]
    assert titles[:3] == ["loss", "implicit accuracy", "margin"]
    for epoch in epochs:
        del epoch.trained["train/implicit_acc"]
        epoch.trained["train/kl"] = [0.5, 0.25]
    titles = [panel.title for panel in training_panels(epochs)]
    assert "implicit accuracy" not in titles
    assert "kl" in titles
    assert [panel.title for panel in judgement_panels(epochs)] == [
        "marked and tied", "agreement of two judges", "judgements and pairs",
    ]  # fmt: skip


def test_tensorboard_reads_the_same_values(two_epochs: EpochContext):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = Path(two_epochs.run.location, "report", "tensorboard")
    read = EventAccumulator(str(folder))
    read.Reload()
    first, second = history_of(two_epochs)
    losses = [*first.trained["train/loss"], *second.trained["train/loss"]]
    assert [event.value for event in read.Scalars("train/loss")] == pytest.approx(losses, rel=1e-6)
    assert [event.step for event in read.Scalars("train/loss")] == list(range(len(losses)))
    assert [event.value for event in read.Scalars("eval/jpeg_compressibility")] == pytest.approx(
        [np.mean(epoch.after["jpeg_compressibility"]) for epoch in (first, second)], rel=1e-6
    )


def test_written_again_it_is_the_same(two_epochs: EpochContext):
    before = page_of(two_epochs)
    assert write_run_report(two_epochs).endswith("two-epochs/report/report.html")
    assert page_of(two_epochs) == before


def test_without_an_evaluation_it_shows_the_rest(begin: Begin):
    context = train_and_seal(generate_and_judge(begin(evaluation={"prompts": None})))
    report.fn(context)
    page = page_of(context)
    assert "Did it get better?" not in page
    assert "6 judgements by jpeg_compressibility" in page
    assert "<h2>Training</h2>" in page
    assert "No held-out prompts are configured." in epoch_page_of(context)
    assert "Krippendorff" not in page, "a programme does not disagree with itself: no column of dashes"


def test_held_out_images_that_no_objective_measures_are_shown(begin: Begin):
    context = train_and_seal(generate_and_judge(begin(evaluation={"prompts": "prompts.txt", "objectives": []})))
    report.fn(context)
    page = epoch_page_of(context)
    assert "<h2>Before after</h2>" in page
    assert "No objective is configured to measure the held-out images" in page
    assert "No held-out prompts" not in page
    assert "<h2>Before and after</h2>" in page_of(context)
    assert "Did it get better?" not in page_of(context)


@pytest.fixture
def compared(two_epochs: EpochContext) -> Iterator[Evaluation]:
    """What an evaluation and its blind comparison of the second epoch with the pretrained model leave."""
    evaluation = Evaluation(two_epochs.run.root, "compared")
    candidates = [
        {"name": "base", "source": "model", "digest": "0", "run_id": None, "epoch": None},
        {"name": "A", "source": "runs/two-epochs:1", "digest": "1", "run_id": two_epochs.run.run_id, "epoch": 1},
    ]
    evaluation.write("evaluation.json", encode({"candidates": candidates}, RESULTS_FORMAT))
    evaluation.create_blind_plan(0, {"candidates": ["A", "base"], "eta": 0.0})
    counts = dict.fromkeys(("losses", "ties", "both_bad"), 1)
    own = counts | {"wins": 7, "win_rate": {"value": 0.7, "low": 0.397, "high": 0.892}}
    found = {
        "number": 0, "between": ["base", "A"], "candidates": {"base": counts | {"wins": 1}, "A": own},
        "judged": 10, "comparisons": 12, "people": 3, "intervals": {"win_rate": "Wilson"},
    }  # fmt: skip
    evaluation.write("blind/0000/results.json", encode(found, BLIND_RESULTS_FORMAT))
    yield evaluation
    shutil.rmtree(Path(evaluation.location).parent)
    write_run_report(two_epochs)


def test_what_people_said_blind_of_its_epochs_is_in_it(
    two_epochs: EpochContext, compared: Evaluation, caplog: pytest.LogCaptureFixture
):
    assert "Did people prefer it?" not in page_of(two_epochs)
    write_run_report(two_epochs)
    page = page_of(two_epochs)
    for said in (
        "<h2>Did people prefer it?</h2>", "epoch 1 against base, η = 0", "70.0% [39.7%, 89.2%]", "10 of 12",
        "95 %, Wilson", "evaluations/compared/evaluation.html",
    ):  # fmt: skip
        assert said in page
    Path(compared.location, "evaluation.json").write_text("{")
    write_run_report(two_epochs)
    assert "Did people prefer it?" not in page_of(two_epochs), "what lies beside a run is no reason to fail"
    assert "left out of the run's report" in caplog.text


def test_epochs_that_are_not_sealed_are_not_in_it(begin: Begin):
    sealed = train_and_seal(generate_and_judge(begin()))
    generate_and_judge(context_of(sealed.configuration, 1))
    assert [epoch.number for epoch in history_of(again(sealed))] == [0]


def test_links_lead_where_browsers_find_the_run(two_epochs: EpochContext):
    assert address_of(two_epochs, "report/report.html").startswith("file:///")
    served = with_fields(two_epochs, storage={"public_url": "https://files.example.org/runs/"})
    assert address_of(served, "report/report.html") == "https://files.example.org/runs/two-epochs/report/report.html"
