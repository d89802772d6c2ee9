"""What training reads: the right rows by id, whole groups, verified; and what was damaged is named and healed."""

import shutil

import pytest
import torch

from storage.embeddings import StoredPrompts
from storage.errors import StorageError
from storage.manifest import verify_epoch
from storage.seals import epoch_content
from tasks.context import EpochContext
from tasks.labels.pull import images_of
from tasks.training import source
from tasks.training.source import StoredTrajectories
from tasks.upkeep.heal import heal
from tests.support.project import flip_byte

from .conftest import Begin, again


def test_groups_come_in_the_order_asked_from_several_shards(generated: EpochContext):
    stored = StoredTrajectories(generated)
    asked = ["g000005", "g000000", "g000003"]
    read = stored.read(asked)
    assert read.ids == tuple(f"{group}-{image}" for group in asked for image in range(2))
    assert read.group_ids == tuple(group for group in asked for _ in range(2))
    assert read.latents.shape == (6, 5, 4, 8, 8)
    assert read.log_prob.shape == (6, 4)
    assert read.log_prob.dtype == torch.float64
    for row, id in enumerate(read.ids):
        alone = stored.read([id.rpartition("-")[0]])
        at = alone.ids.index(id)
        assert torch.equal(read.latents[row], alone.latents[at])
        assert torch.equal(read.log_prob[row], alone.log_prob[at])
        assert read.prompts[row] == generated.groups()[id.rpartition("-")[0]].prompt


def test_a_group_shares_its_initial_noise(generated: EpochContext):
    read = StoredTrajectories(generated).read(["g000000", "g000001"])
    assert torch.equal(read.latents[0, 0], read.latents[1, 0])
    assert not torch.equal(read.latents[0, 0], read.latents[2, 0])
    assert not torch.equal(read.latents[0, 1], read.latents[1, 1])


@pytest.mark.parametrize("kept", [1, 16 << 20])
def test_prompt_embeddings(generated: EpochContext, kept: int, monkeypatch: pytest.MonkeyPatch):
    """Those that are kept, and those that are read again as there is no room for them."""
    monkeypatch.setattr(source, "KEPT_EMBEDS", kept)
    stored = StoredPrompts(generated.epoch.fetch(generated.epoch.latest("prompts"))).read()
    prompts = [*(group.prompt for group in generated.groups().values()), ""]
    trajectories = StoredTrajectories(generated)
    for asked in (prompts, prompts[::-1], prompts[3:4]):
        embeds = trajectories.prompt_embeds(asked)
        assert embeds.shape == (len(asked), 16, 16)
        assert embeds.dtype == torch.float32
        assert all(
            torch.equal(row, torch.from_numpy(stored[prompt])) for row, prompt in zip(embeds, asked, strict=True)
        )


def test_bfloat16_latents_survive_the_store(begin: Begin):
    from tasks.generation.generate import write_prompt_embeds
    from tasks.generation.plan import make_plan
    from tasks.generation.shards import write_generated

    context = begin("half", sampling={"latent_dtype": "bfloat16"})
    make_plan(context)
    write_prompt_embeds(context)
    write_generated(context, "shard-000000")
    latents = StoredTrajectories(context).read(["g000000"]).latents
    assert latents.dtype == torch.bfloat16
    assert bool(latents.float().isfinite().all())
    assert float(latents.float().std()) > 0.1


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("what", ["traj.zarr/latents/c/*/*", "groups.parquet", "images/g000002-1.png"])
def test_a_damaged_shard_is_named_and_healed(generated: EpochContext, how: str, what: str):
    epoch = generated.epoch
    content = epoch_content(epoch.latest_all(), None)
    commit = epoch.latest("shard-000001")
    folder = epoch.fetch(commit)
    path = next(path for path in sorted(folder.glob(what.replace("*/*", "**/*"))) if path.is_file())
    if how == "flipped":
        flip_byte(path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()

    fresh = again(generated)
    with pytest.raises(StorageError) as caught:
        if what.startswith("images"):  # training does not read them; people, programmes and audits do
            images_of(fresh, "shard-000001")
        StoredTrajectories(fresh).read(["g000002"])
    assert "shard-000001" in str(caught.value)
    assert path.name in str(caught.value)
    assert "d3po heal" in str(caught.value)
    StoredTrajectories(fresh).read(["g000000"])

    assert [line.split(":")[0] for line in heal(again(generated))] == ["shard-000001"]
    healed = again(generated)
    assert healed.epoch.latest("shard-000001").number == 2
    assert epoch_content(healed.epoch.latest_all(), None) == content
    assert StoredTrajectories(healed).read(["g000002"]).ids == ("g000002-0", "g000002-1")
    assert list(heal(again(generated))) == []
    assert not [finding for finding in verify_epoch(healed.epoch) if finding.broken]


def test_lost_prompt_embeddings_are_healed(generated: EpochContext):
    shutil.rmtree(generated.epoch.fetch(generated.epoch.latest("prompts")))
    with pytest.raises(StorageError, match="d3po heal"):
        StoredTrajectories(again(generated)).prompt_embeds([""])
    assert [line.split(":")[0] for line in heal(again(generated))] == ["prompts"]
    assert StoredTrajectories(again(generated)).prompt_embeds([""]).shape == (1, 16, 16)


def test_judgements_cannot_be_healed(generated: EpochContext):
    from tasks.errors import UserError

    flip_byte(generated.epoch.fetch(generated.epoch.latest("pull"), "judgements.parquet"))
    with pytest.raises(UserError, match="pull of epoch 0 is damaged") as caught:
        list(heal(again(generated)))
    assert "backup" in str(caught.value)


def test_the_suggested_heal_command_is_one(generated: EpochContext, at_home):
    """What the error says to type is what d3po takes."""
    flip_byte(generated.epoch.fetch(generated.epoch.latest("shard-000000"), "groups.parquet"))
    with pytest.raises(StorageError) as caught:
        StoredTrajectories(again(generated)).read(["g000000"])
    words = caught.value.remedy.split()
    assert words[:2] == ["d3po", "heal"]
    healed = at_home.verb(*words[1:], D3PO_CACHE=str(generated.run.root)).good()
    assert "shard-000000: made again" in healed.out
