"""What leaves a run: the adapter with its card, the whole pipeline, and what was judged."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from huggingface_hub import constants
from PIL import Image

from tasks.context import EpochContext
from tasks.errors import UserError
from tasks.exchange.export import export_adapter, export_merged
from tasks.exchange.export_preferences import PICKAPIC, export_preferences
from tasks.labels.pull import images_of, judgements_of
from tasks.reports.history import history_of, trained_digest
from tasks.training.training_plan import pairs_of
from tests.support.project import Project

from .conftest import Begin, generate_and_judge, judged_by_people, train_and_seal


def test_the_card_says_what_it_was_made_from(two_epochs: EpochContext, tmp_path: Path):
    folder = export_adapter(two_epochs, tmp_path)
    assert {file.name for file in folder.iterdir()} == {
        "README.md", "curves.png", "provenance.json", "pytorch_lora_weights.safetensors",
    }  # fmt: skip
    card = (folder / "README.md").read_text()
    for said in (
        "base_model: model",
        "| judged by | 2 people |",
        "| judgements | 12 in this epoch, 24 in all |",
        "| agreement of two judges, ties, marked | 83.3%, 0.0%, – |",
        "| objective | D3PO (Yang et al., CVPR 2024, Eq. 14); d3po, reduction mean, reference epoch_start, beta 10.0",
        f"| configuration digest | `{trained_digest(history_of(two_epochs)[-1])}` |",
        f"`{two_epochs.epoch.seal()['digest']}`",
        "change since the start",
        "![Objectives and training over the epochs](curves.png)",
    ):
        assert said in card
    assert Image.open(folder / "curves.png").width > 600


def test_a_cards_curves_end_with_its_epoch(two_epochs: EpochContext, tmp_path: Path):
    first = EpochContext(configuration=two_epochs.configuration, run=two_epochs.run, number=0)
    card = (export_adapter(first, tmp_path) / "README.md").read_text()
    assert "| judgements | 12 in this epoch, 12 in all |" in card
    assert "| epochs behind it | 1 |" in card


def test_the_runs_own_card_knows_its_evaluation(two_epochs: EpochContext):
    card = two_epochs.epoch.read_aside("adapter/README.md").decode()
    assert "held-out prompts" in card


def test_the_card_names_the_commit_that_a_hub_id_stood_for(
    begin: Begin, at_home: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The real hub client, offline, over a cache laid out as it lays it out; nobody pinned ``model.revision``."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--somebody--tiny"
    shutil.copytree(at_home.folder / "model", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    context = train_and_seal(generate_and_judge(begin(model={"path": "somebody/tiny"})))
    assert context.run.info["model_commit"] == commit
    card = (export_adapter(context, tmp_path / "adapter") / "README.md").read_text()
    assert f"| base model | `somebody/tiny` at `{commit}` |" in card
    assert f'from_pretrained("somebody/tiny", revision="{commit}")' in card


# ---- the whole pipeline ------------------------------------------------------------------------------------------------


def pictures(pipeline: StableDiffusionPipeline) -> np.ndarray:
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(4)
    return pipeline(
        ["a red square", "two dots"], num_inference_steps=6, guidance_scale=5.0, generator=generator, output_type="np"
    ).images


def test_plain_diffusers_makes_the_same_images_of_the_merged_pipeline(two_epochs: EpochContext, tmp_path: Path):
    with_adapter = StableDiffusionPipeline.from_pretrained(two_epochs.configuration.model.path, safety_checker=None)
    before = pictures(with_adapter)
    with_adapter.load_lora_weights(export_adapter(two_epochs, tmp_path / "adapter"))
    expected = pictures(with_adapter)
    merged = StableDiffusionPipeline.from_pretrained(export_merged(two_epochs, tmp_path / "merged"))
    assert not [name for name, _ in merged.unet.named_parameters() if "lora" in name]
    found = pictures(merged)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - before).max() > 1e-3
    assert "The whole pipeline" in (tmp_path / "merged" / "README.md").read_text()


def test_a_pipeline_is_not_written_over_something_else(two_epochs: EpochContext, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="is not empty"):
        export_merged(two_epochs, tmp_path)


def test_the_index_names_what_is_there(two_epochs: EpochContext, tmp_path: Path):
    folder = export_merged(two_epochs, tmp_path / "merged")
    index = json.loads((folder / "model_index.json").read_text())
    parts = {name for name, value in index.items() if isinstance(value, list) and value[0] is not None}
    assert parts == {path.name for path in folder.iterdir() if path.is_dir()}


# ---- what was judged ---------------------------------------------------------------------------------------------------


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_pickapic_has_a_row_for_every_judgement(two_epochs: EpochContext, tmp_path: Path):
    file, rows = export_preferences(two_epochs, tmp_path, "pickapic")
    table = pq.read_table(file)
    assert table.schema.equals(PICKAPIC)
    assert rows == table.num_rows == 24
    contexts = [EpochContext(configuration=two_epochs.configuration, run=two_epochs.run, number=n) for n in range(2)]
    images = {
        f"{context.uid_prefix}/{id}": image
        for context in contexts
        for name in context.plan["shards"]
        for id, image in images_of(context, name).items()
    }
    judged = {(one.group_id, one.judge): one for one in judgements_of(contexts[1])}
    for row in table.to_pylist():
        assert np.array_equal(pixels(row["jpg_0"]), images[row["image_0_uid"]])
        assert np.array_equal(pixels(row["jpg_1"]), images[row["image_1_uid"]])
        assert row["label_0"] + row["label_1"] == 1
        assert row["best_image_uid"] == row[f"image_{0 if row['label_0'] == 1 else 1}_uid"]
        if row["image_0_uid"].startswith(contexts[1].uid_prefix):
            said = judged[row["image_0_uid"].split("/")[-1][:7], f"user:{row['user_id']}"]
            better = max(zip(said.levels, said.trajectory_ids, strict=True))[1]
            assert row["best_image_uid"].endswith(f"/{better}")
            assert row["model_0"] == "model + two-epochs:0"
    assert sorted(table["ranking_id"].to_pylist()) == list(range(24))
    assert {row["num_example_per_prompt"] for row in table.to_pylist()} <= {2, 4}


def test_chosen_and_rejected_are_the_pairs_that_were_trained_on(two_epochs: EpochContext, tmp_path: Path):
    file, rows = export_preferences(two_epochs, tmp_path, "chosen")
    contexts = [EpochContext(configuration=two_epochs.configuration, run=two_epochs.run, number=n) for n in range(2)]
    pairs = [(c, pair) for c in contexts for pair in pairs_of(c, c.epoch.latest("train-plan"))]
    assert rows == len(pairs) > 0
    for row, (context, pair) in zip(pq.read_table(file).to_pylist(), pairs, strict=True):
        assert row["prompt"] == context.groups()[pair.group_id].prompt
        assert (row["chosen"]["path"], row["rejected"]["path"]) == (f"{pair.preferred}.png", f"{pair.dispreferred}.png")
        [shard] = [n for n, batches in context.plan["shards"].items() if any(pair.group_id in b for b in batches)]
        assert np.array_equal(pixels(row["chosen"]["bytes"]), images_of(context, shard)[pair.preferred])
    features = json.loads(pq.read_schema(file).metadata[b"huggingface"])["info"]["features"]
    assert features["chosen"] == {"_type": "Image"}


def test_an_even_split_is_no_choice(begin: Begin, tmp_path: Path):
    """Two people, who disagree on one group: its margin is pulled to 0 in training, and nothing of it was chosen."""
    context = judged_by_people(begin(labels={"source": "people"}, training={"votes": "soft"}))
    sealed = train_and_seal(context)
    pairs = pairs_of(sealed, sealed.epoch.latest("train-plan"))
    assert [pair.group_id for pair in pairs if pair.target == 0.5] == ["g000000"]
    file, rows = export_preferences(sealed, tmp_path, "chosen")
    assert rows == len(pairs) - 1
    assert not any(row["chosen"]["path"].startswith("g000000") for row in pq.read_table(file).to_pylist())


def test_one_person_s_marks_are_votes_on_every_two_images(begin: Begin, tmp_path: Path):
    """A programme's judgement of four images: six rows, and no person."""
    context = train_and_seal(generate_and_judge(begin(sampling={"group_size": 4}, prompts={"groups_per_epoch": 2})))
    file, rows = export_preferences(context, tmp_path, "pickapic")
    assert rows == 12
    assert set(pq.read_table(file)["user_id"].to_pylist()) == {None}


def test_kinds_that_there_are_not(two_epochs: EpochContext, tmp_path: Path):
    with pytest.raises(UserError, match="expected pickapic or chosen"):
        export_preferences(two_epochs, tmp_path, "csv")
