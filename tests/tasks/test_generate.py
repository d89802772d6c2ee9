"""Shards are stored while the next one is computed: in turn, two in memory at most, and tried again where that fails."""

import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from d3po_core.records import Trajectories
from flows.epoch_run import generate
from storage.errors import StorageError
from tasks.context import EpochContext
from tasks.generation import generate as tasks_of_it
from tasks.generation.plan import make_plan
from tasks.generation.shards import GeneratedShard, commit_shard, compute_shard, to_arrays

from .conftest import Begin

Events = list[tuple[str, str]]


@pytest.fixture(scope="module")
def prefect() -> Iterator[str]:
    """A Prefect of this file's own: its address."""
    with prefect_test_harness(server_startup_timeout=300):
        yield PREFECT_API_URL.value()


@pytest.fixture
def planned(prefect: str, begin: Begin) -> Iterator[EpochContext]:
    """Three shards, each tried twice."""
    context = begin(orchestration={"shard_retries": 1, "groups_per_shard": 2, "threads": 1})
    make_plan(context)
    with temporary_settings({PREFECT_API_URL: prefect}):
        yield context


def run(context: EpochContext) -> None:
    flow(lambda: generate(context), name="generate")()


def store_by(monkeypatch: pytest.MonkeyPatch, store: Callable) -> None:
    monkeypatch.setattr(tasks_of_it, "commit_shard", store)


def test_one_is_stored_while_the_next_is_computed(planned: EpochContext, monkeypatch: pytest.MonkeyPatch):
    events: Events = []
    computed: list[weakref.ref[np.ndarray]] = []
    in_memory: list[int] = []
    names = list(planned.plan["shards"])
    ended = {name: threading.Event() for name in names}

    def compute(context: EpochContext, name: str) -> GeneratedShard:
        events.append(("compute", name))
        shard = compute_shard(context, name)
        computed.append(weakref.ref(shard.images))
        in_memory.append(sum(images() is not None for images in computed))
        ended[name].set()
        return shard

    def store(context: EpochContext, name: str, shard: GeneratedShard) -> None:
        after = names[names.index(name) + 1 :]
        assert not after or ended[after[0]].wait(120), "the next is computed meanwhile"
        commit_shard(context, name, shard)
        events.append(("stored", name))

    monkeypatch.setattr(tasks_of_it, "compute_shard", compute)
    store_by(monkeypatch, store)
    run(planned)
    assert len(names) == 3
    assert [planned.epoch.latest(name).number for name in names] == [1, 1, 1]
    assert events.index(("compute", names[1])) < events.index(("stored", names[0])), "at the same time"
    assert events.index(("stored", names[0])) < events.index(("stored", names[1])), "in turn"
    assert in_memory == [1, 2, 2]


def test_a_shard_is_put_together_without_its_batches_being_kept():
    """In memory are the shard, the batch that is being copied and the one before."""
    given: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def batches() -> Iterator[Trajectories]:
        for number in range(4):
            one = Trajectories(
                ids=(f"g{number}-0", f"g{number}-1"),
                group_ids=(f"g{number}",) * 2,
                prompts=(f"prompt {number}",) * 2,
                latents=torch.full((2, 3, 1, 2, 2), float(number), dtype=torch.bfloat16),
                log_prob=torch.full((2, 2), -float(number), dtype=torch.float64),
                timesteps=torch.tensor([9, 4]),
                trainable=torch.tensor([True, False]),
                images=np.full((2, 4, 4, 3), number, np.uint8),
            )
            given.append(weakref.ref(one.images))
            alive.append(sum(images() is not None for images in given))
            yield one

    shard = to_arrays(batches(), 8, {})
    assert max(alive) == 2
    rows = [0, 0, 1, 1, 2, 2, 3, 3]
    assert shard.arrays.ids == tuple(f"g{row}-{place % 2}" for place, row in enumerate(rows))
    assert shard.arrays.prompts[5] == "prompt 2"
    assert shard.images[:, 0, 0, 0].tolist() == rows
    assert (shard.arrays.latents.dtype, shard.arrays.latents_dtype) == (np.uint16, "bfloat16")
    latents = torch.from_numpy(shard.arrays.latents).view(torch.bfloat16)
    assert latents[:, 2, 0, 1, 1].tolist() == rows
    assert shard.arrays.log_prob[:, 1].tolist() == [-row for row in rows]
    with pytest.raises(ValueError, match="8 trajectories came for a shard of 10"):
        to_arrays(batches(), 10, {})


def test_storing_is_tried_again_without_computing_again(planned: EpochContext, monkeypatch: pytest.MonkeyPatch):
    tried: list[str] = []

    def fails_once(context: EpochContext, name: str, shard: GeneratedShard) -> None:
        tried.append(name)
        if len(tried) == 1:
            raise StorageError("the disk was full for a moment", "try again")
        commit_shard(context, name, shard)

    store_by(monkeypatch, fails_once)
    run(planned)
    names = list(planned.plan["shards"])
    assert tried == [names[0], *names]
    assert all(planned.epoch.latest(name) is not None for name in names)


def test_a_full_disk_ends_the_epoch_before_more_is_computed(planned: EpochContext, monkeypatch: pytest.MonkeyPatch):
    computed: list[str] = []

    def compute(context: EpochContext, name: str) -> GeneratedShard:
        computed.append(name)
        return compute_shard(context, name)

    def fails(context: EpochContext, name: str, shard: GeneratedShard) -> None:
        raise StorageError("the disk is full", "free space")

    monkeypatch.setattr(tasks_of_it, "compute_shard", compute)
    store_by(monkeypatch, fails)
    with pytest.raises(StorageError, match="the disk is full"):
        run(planned)
    assert computed == list(planned.plan["shards"])[:2], "the second was under way"
    monkeypatch.undo()
    run(planned)
    assert all(planned.epoch.latest(name) is not None for name in planned.plan["shards"])


def test_a_shard_that_cannot_be_computed_does_not_keep_the_others(
    planned: EpochContext, monkeypatch: pytest.MonkeyPatch
):
    names = list(planned.plan["shards"])

    def compute(context: EpochContext, name: str) -> GeneratedShard:
        if name == names[1]:
            raise ValueError("this one is broken")
        return compute_shard(context, name)

    monkeypatch.setattr(tasks_of_it, "compute_shard", compute)
    with pytest.raises(ValueError, match="this one is broken"):
        run(planned)
    assert [planned.epoch.latest(name) is not None for name in names] == [True, False, True]
