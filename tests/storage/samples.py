"""Small data for the tests of the store, and what their child processes run."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from storage.commits import Commit
from storage.embeddings import write_prompts
from storage.epoch import Epoch
from storage.layout import shard_name
from storage.run import Run
from storage.tables import PAIRS, rows_digest, write_table
from storage.trajectories import TrajectoryArrays, write_shard

STEPS = 3
PAIR = {
    "group_id": "g000000",
    "preferred": "g000000-0",
    "dispreferred": "g000000-1",
    "target": 1.0,
    "votes_preferred": 1,
    "votes_tie": 0,
    "votes_dispreferred": 0,
}


def trajectories(groups: Sequence[int], dtype: str = "float32") -> tuple[TrajectoryArrays, np.ndarray]:
    """Two trajectories per group whose numbers depend on the group alone, and their images."""
    ids, latents, log_probs, images = [], [], [], []
    for group in groups:
        random_numbers = np.random.default_rng(group)
        for image in range(2):
            ids.append(f"g{group:06d}-{image}")
            latents.append(random_numbers.normal(size=(STEPS + 1, 2, 4, 4)).astype("float32"))
            log_probs.append([*random_numbers.normal(size=STEPS - 1), np.nan])
            images.append(random_numbers.integers(0, 256, size=(8, 8, 3), dtype=np.uint8))
    stacked = np.stack(latents)
    if dtype == "bfloat16":
        stacked = (stacked.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype == "float16":
        stacked = stacked.astype(np.float16)
    arrays = TrajectoryArrays(
        ids=tuple(ids),
        group_ids=tuple(id_.split("-")[0] for id_ in ids),
        prompts=tuple(f"a shape, the {id_.split('-')[0]}" for id_ in ids),
        latents=stacked,
        latents_dtype=dtype,
        log_prob=np.array(log_probs),
        timesteps=np.array([900, 500, 1]),
        trainable=np.array([True, True, False]),
        seeds={id_: f"trajectory/{id_}" for id_ in ids},
    )
    return arrays, np.stack(images)


def commit_shard(epoch: Epoch, index: int, supersede: bool = False) -> Commit:
    """Generate and commit a shard of two groups, whatever is there."""
    attempt = epoch.begin(shard_name(index))
    content = write_shard(attempt.path, *trajectories([2 * index, 2 * index + 1]))
    return epoch.commit(attempt, {"worker": os.getpid()}, content, supersede=supersede)


def commit_text(epoch: Epoch, name: str, text: str = "hello", **options: Any) -> Commit:
    """Commit an output of one small file, ``note.txt``, and one in a folder."""
    attempt = epoch.begin(name)
    (attempt.path / "note.txt").write_text(text)
    (attempt.path / "deep").mkdir()
    (attempt.path / "deep" / "more.txt").write_text(text * 2)
    return epoch.commit(attempt, options.pop("details", None), {"text": text}, **options)


def commit_epoch(epoch: Epoch, shards: int = 2) -> None:
    """Plan an epoch and commit what an epoch has: prompts, shards, pairs, training."""
    epoch.create_plan({"groups": list(range(2 * shards))})
    prompts = epoch.begin("prompts")
    epoch.commit(prompts, {}, write_prompts(prompts.path, ["", "a"], np.ones((2, 3, 4), np.float32)))
    for index in range(shards):
        commit_shard(epoch, index)
    plan = epoch.begin("train-plan")
    write_table(plan.path / "pairs.parquet", [PAIR], PAIRS)
    planned = epoch.commit(plan, {}, {"pairs": rows_digest([PAIR], PAIRS)})
    final = epoch.begin("train", folder=f"training/{planned.attempt}/final")
    (final.path / "lora.bin").write_bytes(b"weights")
    epoch.commit(final, {"seconds": time.time()}, {"lora": f"weights of epoch {epoch.number}"})


@contextmanager
def tampered(run: Run, key: str, how: str) -> Iterator[None]:
    """Break a stored file, and make it whole again afterwards."""
    whole = run.backend.get(key)
    tamper(run, key, how)
    yield
    run.backend.put(key, whole)


def tamper(run: Run, key: str, how: str) -> None:
    """Break a stored file, on whatever backend: ``flip`` a bit, ``truncate``, ``empty`` or ``delete``."""
    data = run.backend.get(key)
    if how == "delete":
        run.backend.remove(key)
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        run.backend.put(key, {"flip": flipped, "truncate": data[:-1], "empty": b""}[how])


# ---- what child processes run -----------------------------------------------------------------------------------------


def work(
    root: str,
    name: str,
    shards: int,
    seed: int,
    environment: Mapping[str, str],
    started: Any = None,
    report: Any = None,
) -> None:
    """What a worker does: commit what is not committed yet, in an order of its own; report the attempts that count."""
    os.environ.update(environment)
    if started is not None:
        started.set()
    epoch = Run.open(root, name).epoch(0)
    order = random.Random(seed).sample(range(shards), shards)
    found = {}
    for index in order:
        known = epoch.latest(shard_name(index))
        found[index] = (known or commit_shard(epoch, index)).attempt
    if report is not None:
        report.put(found)


def race(root: str, name: str, names: Sequence[str], barrier: Any, report: Any, environment: Mapping[str, str]) -> None:
    """Commit the same names as others at the same moment, with content of this process's own."""
    os.environ.update(environment)
    epoch = Run.open(root, name).epoch(0)
    found = {}
    for commit_name in names:
        attempt = epoch.begin(commit_name)
        (attempt.path / "who.txt").write_text(attempt.id)
        barrier.wait(300)
        found[commit_name] = epoch.commit(attempt, content={"who": attempt.id}).attempt
    report.put(found)


def die_at(event_number: int, root: str, name: str) -> None:
    """Commit one output and be killed at the n-th thing done to the file system; exit 0 if there are fewer."""
    epoch = Run.open(root, name).epoch(0)
    watched = {"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
    seen = 0

    def hook(event: str, _: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in watched:
            seen += 1
            if seen == event_number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    commit_text(epoch, "prompts")
    os._exit(0)


def hold_lock(root: str, name: str, purpose: str, ready: Any) -> None:
    """Hold a run's lock, with a child of our own that outlives us, until killed."""
    with Run.open(root, name).lock(purpose):
        forked, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(tell, b"1")  # past what a fork does in the child, which may be late on a busy machine
            time.sleep(600)
            os._exit(0)
        os.read(forked, 1)
        ready.put(child)
        time.sleep(600)


def stage_and_wait(root: str, name: str, ready: Any) -> None:
    """Build half an attempt and wait to be killed."""
    attempt = Run.open(root, name).epoch(0).begin("prompts")
    (attempt.path / "half").write_text("half")
    ready.put(str(attempt.path))
    time.sleep(600)
