"""The task that holds an epoch to the pretrained model: its log-probs, once per image, before training begins."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.context import EpochContext
from tasks.training.pretrained import needs_reference, write_reference

__all__ = ["reference"]


@task(name="reference", cache_policy=NO_CACHE, persist_result=False)
def reference(context: EpochContext) -> None:
    """Evaluate the pretrained model (the policy's network with its adapter off) and commit its log-probs."""
    if needs_reference(context) and context.epoch.latest("reference") is None:
        write_reference(context)
