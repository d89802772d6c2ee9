"""Make again what was lost or damaged: shards and prompt embeddings, into a new attempt.

Where the numbers come out the same, the new marker supersedes the old one and nothing else changes. Where they do not
(another machine), nothing may have been shown to people yet.
"""

from collections.abc import Iterator

from storage.heal import scan
from tasks.context import EpochContext, run_folder
from tasks.errors import UserError
from tasks.generate import write_generated, write_prompt_embeds

__all__ = ["heal"]


def heal(context: EpochContext) -> Iterator[str]:
    """Look at every commit of the epoch, and make again those that can be.

    Yields:
        What was found and done, a line each.

    Raises:
        UserError: Something is damaged that cannot be computed again, or came out otherwise after it was pushed.
    """
    for name in scan(context.epoch):
        if name != "prompts" and not name.startswith("shard-"):
            raise UserError(
                f"{name} of epoch {context.number} is damaged, and what people or the training made cannot be "
                "computed again",
                remedy=f"restore {run_folder(context.configuration)} from a backup, then d3po audit it",
            )
        before = context.epoch.latest(name)
        make = write_prompt_embeds if name == "prompts" else write_generated
        after = make(context, name, supersede=True, check=lambda content, old=before: _check(context, old, content))
        yield f"{name}: made again in attempt {after.attempt}, {'same' if after.content == before.content else 'other'} content"


def _check(context: EpochContext, before, content: dict) -> None:
    if content != dict(before.content) and context.epoch.latest("push") is not None:
        raise UserError(
            f"{before.name} of epoch {context.number} came out with other numbers than people were shown: another "
            "machine, other libraries or another number of threads",
            remedy="run d3po heal where the epoch was generated, or restore the folder from a backup",
        )
