"""Judged pairs from elsewhere: a run's export comes back as the same pairs, and no row is dropped in silence."""

import io
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from d3po_core.preferences import judgements_to_pairs
from flows.epoch_run import run_epoch
from storage.manifest import build_seal, environment
from storage.tables import GROUPS, read_rows
from storage.trajectories import StoredShard
from storage.verify import damage, verify_epoch
from tasks.config import Configuration
from tasks.config_reading import load_configuration
from tasks.context import EpochContext, found_run, planned_context
from tasks.errors import UserError
from tasks.exchange.export_preferences import export_preferences
from tasks.exchange.fork import fork
from tasks.exchange.import_preferences import Imported, import_preferences
from tasks.labels.pull import images_of, judgements_of
from tasks.policies import policy_for, state_after
from tasks.training import trainer
from tasks.training.attempt import training_attempt
from tasks.training.source import StoredTrajectories
from tasks.upkeep.audit import audit
from tasks.upkeep.heal import heal
from tests.support.project import Project, flip_byte


@pytest.fixture
def configuration(at_home: Project, tmp_path: Path) -> Configuration:
    return load_configuration(at_home.configuration("imported", storage={"root": str(tmp_path)}))


def context_of(done: Imported, configuration: Configuration) -> EpochContext:
    return planned_context(*found_run(f"{configuration.storage.root}/imported"), done.epoch)


def png(level: int, size: tuple[int, int] = (16, 16), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (level, 255 - level, 128)).save(stream, kind)
    return stream.getvalue()


def row(**changes) -> dict:
    return {"caption": "a red square", "jpg_0": png(0), "jpg_1": png(200), "label_0": 1.0, "label_1": 0.0, **changes}


def write(folder: Path, rows: list[dict], **columns: pa.DataType) -> Path:
    kinds = {
        "caption": pa.string(),
        "jpg_0": pa.binary(),
        "jpg_1": pa.binary(),
        "label_0": pa.float64(),
        "label_1": pa.float64(),
    }
    schema = pa.schema(list((kinds | columns).items()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def signature(context: EpochContext, votes: str) -> set[tuple]:
    """The pairs by what they are about: prompt, preferred and dispreferred pixels, votes."""
    pairs, _ = judgements_to_pairs(judgements_of(context), votes)
    images = {id: image.tobytes() for name in context.plan["shards"] for id, image in images_of(context, name).items()}
    return {
        (
            context.groups()[pair.group_id].prompt, images[pair.preferred], images[pair.dispreferred], pair.target,
            pair.votes_preferred, pair.votes_tie, pair.votes_dispreferred,
        )
        for pair in pairs
    }  # fmt: skip


@pytest.mark.parametrize("votes", ["majority", "soft"])
def test_an_export_comes_back_as_the_same_pairs(
    two_epochs: EpochContext, configuration: Configuration, tmp_path: Path, votes: str
):
    file, rows = export_preferences(two_epochs, tmp_path, "pickapic")
    done = import_preferences(configuration, file)
    assert (done.rows, done.judgements, done.groups, done.set_aside) == (rows, 24, 12, {})
    before = [EpochContext(configuration=two_epochs.configuration, run=two_epochs.run, number=n) for n in range(2)]
    context = context_of(done, configuration)
    assert signature(context, votes) == signature(before[0], votes) | signature(before[1], votes)
    assert {one.judge for one in judgements_of(context)} == {"imported:3", "imported:8"}
    assert not [finding for finding in verify_epoch(context.epoch) if finding.broken]


def test_images_are_trajectories_without_a_transition(configuration: Configuration, tmp_path: Path):
    done = import_preferences(configuration, write(tmp_path, [row(), row(caption="two dots")]))
    context = context_of(done, configuration)
    [name] = context.plan["shards"]
    arrays = StoredShard(context.epoch.fetch(context.epoch.latest(name))).read()
    assert (arrays.latents.shape, arrays.log_prob.shape, arrays.timesteps.shape) == ((4, 1, 4, 8, 8), (4, 0), (0,))
    policy = policy_for(configuration)
    images = np.stack(list(images_of(context, name).values()))
    assert np.array_equal(arrays.latents[:, 0], policy.encode_images(images).numpy())
    read = StoredTrajectories(context).read(["g000001", "g000000"])
    assert read.ids == ("g000001-0", "g000001-1", "g000000-0", "g000000-1")
    assert read.log_prob.shape == (4, 0)
    groups = read_rows(context.epoch.fetch(context.epoch.latest(name), "groups.parquet"), GROUPS)
    assert [one["seeds"] for one in groups] == [None] * 4
    assert StoredTrajectories(context).prompt_embeds(["two dots"]).shape == (1, 16, 16)


def test_what_the_vae_makes_of_an_image_is_what_it_decodes(configuration: Configuration):
    """The tiny VAE is untrained: the scale and the range of pixels are what can be checked of it."""
    policy = policy_for(configuration)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    latents = policy.encode_images(images)
    from torch import from_numpy, no_grad

    with no_grad():
        pixels = from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        expected = policy.parts.vae.encode(pixels).latent_dist.mean * policy.parts.vae.config.scaling_factor
    assert (float(pixels.min()), float(pixels.max())) == (-1, 1)
    np.testing.assert_allclose(latents, expected, atol=1e-5)
    with pytest.raises(ValueError, match="Expected images of 16 × 16"):
        policy.encode_images(images[:, :8])


def test_other_sizes_are_cropped_around_their_middle_and_resized(configuration: Configuration, tmp_path: Path):
    wide = Image.new("RGB", (64, 32), "white")
    wide.paste((255, 0, 0), (16, 0, 48, 32))  # the middle square is red
    stream = io.BytesIO()
    wide.save(stream, "PNG")
    done = import_preferences(configuration, write(tmp_path, [row(jpg_0=stream.getvalue(), jpg_1=png(9, kind="JPEG"))]))
    context = context_of(done, configuration)
    images = images_of(context, "shard-000000")
    assert (images["g000000-0"] == [255, 0, 0]).all()
    assert images["g000000-1"].shape == (16, 16, 3)
    assert (done.width, done.height) == (16, 16)


def test_rows_about_the_same_two_images_are_judgements_of_one_group(configuration: Configuration, tmp_path: Path):
    swapped = row(jpg_0=png(200), jpg_1=png(0), label_0=0.0, label_1=1.0)
    rows = [row(user_id=4), swapped | {"user_id": 5}, row(user_id=6, label_0=0.5, label_1=0.5)]
    done = import_preferences(configuration, write(tmp_path, rows, user_id=pa.int64()))
    assert (done.groups, done.judgements) == (1, 3)
    found = judgements_of(context_of(done, configuration))
    assert [(one.judge, one.verdict, one.levels) for one in found] == [
        ("imported:4", "prefer", ((1.0,), (0.0,))),
        ("imported:5", "prefer", ((1.0,), (0.0,))),
        ("imported:6", "tie", ((0.5,), (0.5,))),
    ]


def test_times_are_read_as_times_or_as_text(configuration: Configuration, tmp_path: Path):
    """One person's votes on one pair: the latest counts, wherever it stands."""
    times = ["2024-05-02 12:00:00", "2024-05-01T12:00:00+00:00", "yesterday", None]
    rows = [
        row(user_id=4, created_at=time, label_0=float(place == 0), label_1=float(place != 0))
        for place, time in enumerate(times)
    ]
    done = import_preferences(configuration, write(tmp_path, rows, user_id=pa.int64(), created_at=pa.string()))
    assert (done.judgements, done.set_aside) == (3, {"its created_at is no time: 'yesterday'": 1})
    found = judgements_of(context_of(done, configuration))
    assert [one.updated_at[:10] for one in found] == ["2024-05-02", "2024-05-01", "1970-01-01"]
    [pair], _ = judgements_to_pairs(found)
    assert pair.preferred == "g000000-0"


BAD = {
    "the caption is missing": {"caption": None},
    "label_0 is not a number from 0 to 1": {"label_0": None},
    "its labels do not add up to 1": {"label_0": 1.0, "label_1": 1.0},
    "its labels are neither 0, 0.5 nor 1": {"label_0": 0.7, "label_1": 0.3},
    "jpg_1 is empty": {"jpg_1": None},
    "jpg_0 cannot be read as an image": {"jpg_0": b"\x89PNG\r\n\x1a\n nothing"},
    "jpg_1 cannot be read as an image": {"jpg_1": png(0)[:60]},
    "its two images are the same": {"jpg_1": png(0)},
    "it says that it has no label": {"has_label": False},
    "the caption has more than the 16 tokens": {"caption": "many words that go on for longer than that"},
}


def test_every_bad_row_is_set_aside_with_its_reason(configuration: Configuration, tmp_path: Path):
    rows = [row(has_label=True), *(row(has_label=True) | changes for changes in BAD.values())]
    done = import_preferences(configuration, write(tmp_path, rows, has_label=pa.bool_()))
    assert (done.rows, done.groups, done.judgements) == (len(BAD) + 1, 1, 1)
    assert sum(done.set_aside.values()) == len(BAD)
    context = context_of(done, configuration)
    body = json.loads(context.epoch.fetch(context.epoch.latest("pull"), "set-aside.json").read_text())
    assert [item["id"] for item in body["annotations"]] == [f"row:{place}" for place in range(1, len(BAD) + 1)]
    for item, expected in zip(body["annotations"], BAD, strict=True):
        assert item["reason"].startswith(expected)
    assert context.epoch.latest("pull").details["set_aside"] == len(BAD)


def test_done_again_it_goes_on_where_it_ended(configuration: Configuration, tmp_path: Path):
    rows = [
        row(caption=f"{word} dots", created_at=datetime(2026, 1, 2)) for word in ("two", "four", "six", "ten", "no")
    ]
    file = write(tmp_path, rows, created_at=pa.timestamp("ns"))
    done = import_preferences(configuration, file)
    context = context_of(done, configuration)
    assert len(context.plan["shards"]) == 3
    folder = Path(context.run.location, "epochs", "0000", "commits")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("shard-000001.1.json", "pull.1.json"):
        (folder / name).unlink()
    assert import_preferences(configuration, file) == done
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys()
    same = "shard-000001.1.json"
    assert json.loads(after[same])["content"] == json.loads(before[same])["content"]
    assert judgements_of(context)[0].updated_at == "2026-01-02T00:00:00.000000+00:00"


def test_another_file_into_an_epoch_that_is_open_is_refused(configuration: Configuration, tmp_path: Path):
    import_preferences(configuration, write(tmp_path, [row()]))
    with pytest.raises(UserError, match="planned otherwise and is not sealed"):
        import_preferences(configuration, write(tmp_path, [row(caption="two dots")]))


def test_a_damaged_import_cannot_be_made_again_from_seeds(configuration: Configuration, tmp_path: Path):
    done = import_preferences(configuration, write(tmp_path, [row()]))
    context = context_of(done, configuration)
    commit = context.epoch.latest("shard-000000")
    flip_byte(Path(context.run.location, "epochs", "0000", commit.folder, "images", "g000000-0.png"))
    assert list(damage(context.epoch)) == ["shard-000000"]
    with pytest.raises(UserError, match="restore"):
        list(heal(context))


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "no parquet file at"), (b"no parquet", "cannot be read as parquet")]
)
def test_files_that_are_none(configuration: Configuration, tmp_path: Path, content: bytes | None, expected: str):
    if content is not None:
        (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(UserError, match=expected):
        import_preferences(configuration, tmp_path / "x.parquet")


def test_columns_and_rows_that_are_missing(configuration: Configuration, tmp_path: Path):
    pq.write_table(pa.table({"caption": ["a"], "jpg_0": [b""]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="has no column jpg_1, label_0, label_1"):
        import_preferences(configuration, tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"none of the 1 rows .* the caption is missing"):
        import_preferences(configuration, write(tmp_path, [row(caption="")]))
    with pytest.raises(UserError, match="none of the 0 rows"):
        import_preferences(configuration, write(tmp_path, []))
    assert not (tmp_path / "imported").exists()


def test_groups_of_another_size_are_refused(configuration: Configuration, at_home: Project, tmp_path: Path):
    three = configuration.model_copy(update={"sampling": configuration.sampling.model_copy(update={"group_size": 3})})
    with pytest.raises(UserError, match=r"sampling.group_size is 3, expected 2"):
        import_preferences(three, write(tmp_path, [row()]))


@pytest.mark.parametrize("kind", ["diffusion_dpo", "preferred_images"])
def test_objectives_without_trajectories_train_on_it_and_the_others_say_so(at_home: Project, tmp_path: Path, kind: str):
    fields = {"storage": {"root": str(tmp_path)}, "objective": {"kind": kind, "beta": None}}
    wanted = load_configuration(at_home.configuration("imported", **fields))
    people = ({"user_id": 4}, {"user_id": 5}, {"user_id": 6})
    rows = [row(), row(caption="a blue circle", label_0=0.0, label_1=1.0), row(label_0=0.5, label_1=0.5)]
    rows = [one | person for one, person in zip(rows, people, strict=True)]
    context = context_of(import_preferences(wanted, write(tmp_path, rows, user_id=pa.int64())), wanted)
    fresh = policy_for(wanted).lora_state()
    trainer.run(context, training_attempt(context).attempt)
    context.epoch.create_seal(build_seal(context.epoch, environment()))
    trained = state_after(context, context.number).lora
    assert any(not torch.equal(value, fresh[name]) for name, value in trained.items())
    assert "3 judgements" in "\n".join(audit(f"{tmp_path}/imported"))
    comparisons, _ = export_preferences(context, tmp_path / "out", "pickapic")
    assert sorted(pq.read_table(comparisons)["user_id"].to_pylist()) == [4, 5, 6], "as they came"
    other = fork(f"{tmp_path}/imported", "with-d3po", overrides=["--objective.kind", "d3po"])
    with pytest.raises(ValueError, match=r"0 denoising steps, expected 4 \(T\).*diffusion_dpo or preferred_images"):
        trainer.run(other, training_attempt(other).attempt)


def test_an_import_that_was_cut_short_is_never_completed_by_pictures_of_our_own(
    configuration: Configuration, tmp_path: Path
):
    done = import_preferences(configuration, write(tmp_path, [row()]))
    context = context_of(done, configuration)
    (context.run.home / context.epoch_key / "commits" / "pull.1.json").unlink()
    with pytest.raises(UserError, match=r"the import was cut short: pull is missing") as caught:
        run_epoch(context_of(done, configuration))
    assert "d3po import CONFIG pairs.parquet" in str(caught.value)
