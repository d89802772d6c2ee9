"""Adapters against the pretrained model: an epoch, its export, what is kept, what is made again, what is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from d3po_core.programmed import jpeg_size_kb
from storage.errors import ConfigurationChangedError, MissingDataError
from storage.evaluation import Evaluation
from storage.tables import EVALUATION, rows_from_bytes
from tasks.config import Configuration
from tasks.context import EpochContext
from tasks.errors import UserError
from tasks.evaluation import candidate_images, evaluation_page
from tasks.evaluation.candidate_images import images_by_group
from tasks.evaluation.candidates import candidates_of, policy_of
from tasks.evaluation.evaluate import evaluate
from tasks.evaluation.evaluation_page import results_of
from tasks.evaluation.finished import configuration_of, open_evaluation
from tasks.evaluation.names import group_of, images_name
from tasks.exchange.export import export_adapter
from tests.support.project import PROMPTS, flip_byte

from .conftest import Begin, generate_and_judge, train_and_seal, with_fields

HELD_OUT = PROMPTS[:3]
IMAGES = 2


@pytest.fixture
def sealed(begin: Begin, tmp_path: Path) -> EpochContext:
    (tmp_path / "held-out.txt").write_text("\n".join(HELD_OUT))
    fields = {"prompts": str(tmp_path / "held-out.txt"), "images_per_prompt": IMAGES}
    return train_and_seal(generate_and_judge(begin(evaluation=fields)))


@pytest.fixture
def adapters(sealed: EpochContext) -> dict[str, str]:
    return {"A": f"{sealed.run.location}:0"}


@pytest.fixture
def made(sealed: EpochContext, adapters: dict[str, str]) -> Evaluation:
    return evaluate(sealed.configuration, adapters)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, float]]]:
    """Which candidate's images are computed from now on, and at which η."""
    asked, policy = [], policy_of
    monkeypatch.setattr(
        candidate_images,
        "policy_of",
        lambda configuration, candidate, eta: (
            asked.append((candidate.name, eta)) or policy(configuration, candidate, eta)
        ),
    )
    return asked


def values(evaluation: Evaluation, **wanted) -> dict[str, float]:
    rows = rows_from_bytes(evaluation.read("evaluation.parquet"), EVALUATION)
    return {
        row["trajectory_id"] or row["group_id"]: row["value"]
        for row in rows
        if all(row[field] == value for field, value in wanted.items())
    }


def images(evaluation: Evaluation, candidate: str, eta: float) -> np.ndarray:
    groups = [group_of(index, prompt) for index, prompt in enumerate(HELD_OUT)]
    part = evaluation.part(images_name(candidate, eta))
    return np.concatenate(list(images_by_group(evaluation, part, groups, IMAGES)))


def test_every_value_is_kept_and_is_that_of_its_image(made: Evaluation):
    for candidate in ("base", "A"):
        for eta in (1.0, 0.0):
            found = values(made, candidate=candidate, eta=eta, measure="jpeg_compressibility")
            pixels = images(made, candidate, eta)
            assert list(found) == [f"e{prompt:06d}-{image}" for prompt in range(3) for image in range(2)]
            assert list(found.values()) == (-jpeg_size_kb(pixels)).tolist()
            diversity = values(made, candidate=candidate, eta=eta, measure="diversity")
            apart = (pixels[0::2].astype(float) - pixels[1::2]) / 255
            assert list(diversity.values()) == pytest.approx(np.sqrt((apart**2).mean(axis=(1, 2, 3))).tolist())
        drift = values(made, candidate=candidate, eta=1.0, measure="drift")
        assert len(drift) == (6 if candidate == "A" else 0)
    kl = values(made, candidate="A", measure="kl_to_base")
    assert list(kl) == [f"e{prompt:06d}-0" for prompt in range(3)]
    assert min(kl.values()) > 0


def test_the_results_are_the_values_means_and_paired_differences(made: Evaluation):
    body = results_of(made)
    assert [one["name"] for one in body["candidates"]] == ["base", "A"]
    for result in body["results"]:
        key = {field: result[field] for field in ("candidate", "eta", "measure")}
        own, base = values(made, **key), values(made, **key | {"candidate": "base"})
        assert result["mean"]["value"] == pytest.approx(np.mean(list(own.values())))
        assert result["mean"]["low"] <= result["mean"]["value"] <= result["mean"]["high"]
        assert result["values"] == len(own)
        if result["candidate"] == "base" or not base:
            assert result["difference"] is None
        else:
            assert result["difference"]["value"] == pytest.approx(np.mean([own[id] - base[id] for id in own]))


def test_noise_is_one_images_own_and_the_same_for_every_candidate(made: Evaluation):
    base, trained = images(made, "base", 0.0), images(made, "A", 0.0)
    assert not np.array_equal(base[0], base[1])
    assert not np.array_equal(base, trained)
    assert np.abs(base.astype(int) - trained).mean() < np.abs(base[0].astype(int) - base[1]).mean()


def test_nothing_that_is_whole_is_made_again(sealed: EpochContext, adapters: dict, made: Evaluation, generated: list):
    before = {file: file.read_bytes() for file in Path(made.location).rglob("*") if file.is_file()}
    evaluate(sealed.configuration, adapters)
    assert generated == []
    assert {file: file.read_bytes() for file in Path(made.location).rglob("*") if file.is_file()} == before


def test_what_is_damaged_or_missing_is_made_again_and_is_the_same(
    sealed: EpochContext, adapters: dict, made: Evaluation, generated: list
):
    part = made.part(images_name("A", 0.0))
    before = images(made, "A", 0.0)
    flip_byte(Path(made.location, part.folder, "e000001-0.png"))
    evaluate(sealed.configuration, adapters)
    assert generated == [("A", 0.0)]
    assert np.array_equal(images(made, "A", 0.0), before)
    assert not Path(made.location, part.folder).exists()


def test_another_objective_needs_no_other_images(
    sealed: EpochContext, adapters: dict, made: Evaluation, generated: list
):
    both = with_fields(sealed, evaluation={"objectives": ["jpeg_compressibility", "jpeg_incompressibility"]})
    evaluate(both.configuration, adapters)
    assert generated == []
    smaller = values(made, candidate="A", eta=1.0, measure="jpeg_compressibility")
    larger = values(made, candidate="A", eta=1.0, measure="jpeg_incompressibility")
    assert smaller == {id: -value for id, value in larger.items()}


def test_an_objective_that_means_something_else_now_is_asked_again(
    sealed: EpochContext, adapters: dict, generated: list
):
    def brightness(target: str) -> Evaluation:
        named = {"judge": {"kind": "python", "target": target, "unit": "levels"}}
        with_judge = with_fields(sealed, evaluation={"objectives": ["judge"]}, programmed=named)
        return evaluate(with_judge.configuration, adapters)

    first = values(brightness("tests.support.judges:brightest"), candidate="A", eta=1.0, measure="judge")
    asked = len(generated)
    second = values(brightness("tests.support.judges:darkest"), candidate="A", eta=1.0, measure="judge")
    assert len(generated) == asked, "of the same images"
    assert second == {id: -value for id, value in first.items()}


def test_an_exported_adapter_is_its_epoch(sealed: EpochContext, adapters: dict, made: Evaluation, tmp_path: Path):
    folder = export_adapter(sealed, tmp_path / "exported")
    again = evaluate(sealed.configuration, {"B": str(folder)}, name="exported")
    for eta in (1.0, 0.0):
        assert np.array_equal(images(again, "B", eta), images(made, "A", eta))
    for evaluation in (made, again):
        base, own = results_of(evaluation)["candidates"]
        assert (base["run_id"], base["epoch"]) == (None, None)
        assert (own["run_id"], own["epoch"]) == (sealed.run.run_id, 0)


def test_an_adapter_of_another_shape_is_loaded_as_it_is(sealed: EpochContext, tmp_path: Path):
    """The evaluating configuration's own LoRA section does not matter."""
    folder = export_adapter(sealed, tmp_path / "exported")
    other = with_fields(sealed, lora={"rank": 4, "alpha": 1.0}).configuration
    [_, own] = candidates_of(sealed.configuration, {"A": str(folder)})
    [_, found] = candidates_of(other, {"A": str(folder)})
    assert (found.lora.rank, found.lora.alpha, found.digest) == (2, 2.0, own.digest)
    assert policy_of(other, found, 1.0).lora_state().keys() == own.state.keys()


def test_the_page_stands_alone(made: Evaluation):
    page = made.read("evaluation.html").decode()
    assert page.count("<img alt=") == 4  # two plots, two sheets
    assert "src='http" not in page
    assert "<script" not in page
    for said in (
        "base, A: 3 held-out prompts × 2 images",
        "difference to base [95 %]",
        "paired",
        "bootstrapped over 3",
    ):
        assert said in page


def test_a_difference_is_drawn_as_it_is_whatever_order_its_file_has(made: Evaluation, monkeypatch: pytest.MonkeyPatch):
    drawn, draw = {}, evaluation_page.differences
    monkeypatch.setattr(
        evaluation_page,
        "differences",
        lambda rows, title, label: drawn.update({title: rows}) or draw(rows, title, label),
    )
    evaluation_page.write_page(made)
    body = results_of(made)
    assert drawn.keys() == {"jpeg compressibility", "diversity"}
    for result in body["results"]:
        if result["difference"] is not None:
            estimate = result["difference"]
            found = drawn[result["measure"].replace("_", " ")][f"A, η = {result['eta']:g}"]
            assert found == (estimate["value"], estimate["low"], estimate["high"])


def test_it_is_found_again_by_its_folder(made: Evaluation, sealed: EpochContext):
    opened = open_evaluation(made.location)
    assert opened.settings() == made.settings()
    assert configuration_of(opened) == sealed.configuration


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_other_noise_under_the_same_name_is_refused(sealed: EpochContext, adapters: dict, made: Evaluation):
    changed = with_fields(sealed, sampling={"guidance_scale": 1.0}).configuration
    with pytest.raises(ConfigurationChangedError, match=r"guidance_scale: was 3\.0, is 1\.0"):
        evaluate(changed, adapters)


def test_another_adapter_under_the_same_name_is_refused(sealed: EpochContext, made: Evaluation, tmp_path: Path):
    other = policy_of(sealed.configuration, candidates_of(sealed.configuration, {})[0], 1.0)
    other.export_adapter(tmp_path / "fresh")
    with pytest.raises(UserError, match="another adapter under the name A"):
        evaluate(sealed.configuration, {"A": str(tmp_path / "fresh")})


@pytest.mark.parametrize("name", ["base", "Base", "", "a b", "-x"])
def test_names_that_no_candidate_can_have(generated_free: Configuration, name: str):
    with pytest.raises(UserError, match="cannot name a candidate"):
        candidates_of(generated_free, {name: "runs/x"})


def test_names_that_differ_in_case_only(generated_free: Configuration):
    with pytest.raises(UserError, match="in either case"):
        candidates_of(generated_free, {"a": "runs/x", "A": "runs/y"})


@pytest.fixture
def generated_free(begin: Begin) -> Configuration:
    return begin().configuration


def test_candidates_that_are_not_there(generated_free: Configuration, begin: Begin, tmp_path: Path):
    with pytest.raises(MissingDataError, match="There is no run"):
        candidates_of(generated_free, {"A": str(tmp_path / "nothing:0")})
    with pytest.raises(UserError, match="has no sealed epoch 3; it has none"):
        candidates_of(generated_free, {"A": f"{begin().run.location}:3"})


def test_a_file_that_is_no_adapter(generated_free: Configuration, tmp_path: Path):
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read as an adapter"):
        candidates_of(generated_free, {"A": str(tmp_path)})


@pytest.fixture
def on_another_model(sealed: EpochContext, tmp_path: Path) -> Configuration:
    """A model of the same architecture: its adapters load without a word."""
    other = tmp_path / "other-model"
    shutil.copytree(sealed.configuration.model.path, other)
    config = json.loads((other / "vae" / "config.json").read_text())
    (other / "vae" / "config.json").write_text(json.dumps(config | {"scaling_factor": 1.0}))
    return with_fields(sealed, model={"path": str(other)}).configuration


def test_an_adapter_of_another_model_is_refused(
    sealed: EpochContext, adapters: dict, on_another_model: Configuration, tmp_path: Path
):
    with pytest.raises(UserError, match=r"that run has model .* adapters of different models"):
        candidates_of(on_another_model, adapters)
    folder = export_adapter(sealed, tmp_path / "exported")
    with pytest.raises(UserError, match=r"that adapter has model .* adapters of different models") as caught:
        candidates_of(on_another_model, {"A": str(folder)})
    assert f"d3po evaluate {sealed.run.location}" in caught.value.remedy


def test_an_adapter_that_names_no_model_is_taken_with_a_warning(
    sealed: EpochContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = export_adapter(sealed, tmp_path / "exported")
    candidates_of(sealed.configuration, {"A": str(folder)})
    assert "which model it was trained on" not in caplog.text
    (folder / "provenance.json").unlink()
    candidates_of(sealed.configuration, {"A": str(folder)})
    assert f"--adapter A={folder}: no provenance.json there says which model it was trained on" in caplog.text


def test_without_held_out_prompts_there_is_nothing_to_evaluate(generated_free: Configuration):
    with pytest.raises(UserError, match=r"evaluation\.prompts is not set"):
        evaluate(generated_free, {})
    assert "etas" in generated_free.evaluation.model_dump()
