"""Generate an epoch: its prompt embeddings once, then its shards.

Computing and storing a shard are task runs of their own, so that one shard is written while the next is computed. Both
are given where computed shards are, never a shard: Prefect holds a task run's parameters and result until its last event
is sent, which on a busy or unreachable server is long after the shard is stored.
"""

import time

import pandas  # noqa: F401  # pyarrow imports it with the first table it writes: beside computing that takes a second
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.commits import Commit
from storage.embeddings import write_prompts
from tasks.context import EpochContext
from tasks.generation.shards import Check, GeneratedShard, commit_shard, compute_shard
from tasks.log import logger
from tasks.policies import policy_for

__all__ = ["encode_prompts", "generate_shard", "store_shard", "write_prompt_embeds"]


@task(name="prompts", cache_policy=NO_CACHE, persist_result=False)
def encode_prompts(context: EpochContext) -> str:
    """Text-encoder output once per prompt of the epoch, and of the unconditional prompt."""
    if context.epoch.latest("prompts") is None:
        write_prompt_embeds(context)
    return "prompts"


@task(name="generate", task_run_name="generate-{name}", cache_policy=NO_CACHE, persist_result=False)
def generate_shard(context: EpochContext, name: str, computed: dict[str, GeneratedShard]) -> str:
    """Compute one shard's trajectories and images, into ``computed``; ``store_shard`` makes them exist."""
    computed[name] = compute_shard(context, name)
    return name


@task(name="store", task_run_name="store-{name}", cache_policy=NO_CACHE, persist_result=False)
def store_shard(context: EpochContext, name: str, computed: dict[str, GeneratedShard]) -> str:
    """Commit what was computed, trajectories and images together, while the next shard is being computed."""
    commit_shard(context, name, computed[name])
    del computed[name]
    return name


def write_prompt_embeds(
    context: EpochContext, name: str = "prompts", *, supersede: bool = False, check: Check | None = None
) -> Commit:
    """Encode the epoch's prompts and commit them."""
    # In the plan's order, so that a shard's prompts lie together: they are read in a third of the time.
    prompts = list(dict.fromkeys(["", *(group.prompt for group in context.groups().values())]))
    policy, begun = policy_for(context.configuration), time.perf_counter()
    embeds = policy.encode(prompts)
    logger().info("%d prompts encoded in %.2f s", len(prompts), time.perf_counter() - begun)
    attempt = context.epoch.begin(name)
    content = write_prompts(attempt.path, prompts, embeds.numpy())
    if check is not None:
        check(content)
    return context.epoch.commit(attempt, content=content, supersede=supersede)
