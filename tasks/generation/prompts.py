"""Prompt files: reading, checking, and which prompts an epoch takes."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from d3po_core.noise import generator
from tasks.errors import UserError

__all__ = ["epoch_prompts", "read_prompts"]


def read_prompts(file: str) -> list[str]:
    """The prompts of a text file (one a line) or a CSV file with a column ``prompt``.

    Raises:
        UserError: No such file, not UTF-8, no prompts, or a prompt that stands twice.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"no prompt file at {path} (looked from {Path.cwd()})", remedy="set prompts.file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {error.start} cannot be read",
            remedy=f"iconv -t UTF-8 {path} > prompts.txt, then set prompts.file",
        ) from None
    prompts = _from_csv(path, text) if path.suffix.lower() == ".csv" else _from_lines(text)
    if not prompts:
        raise UserError(f"{path} holds no prompt", remedy="write one prompt a line, then run the command again")
    twice = [prompt for prompt, count in Counter(prompts).items() if count > 1]
    if twice:
        raise UserError(
            f"{path} has {len(twice)} prompts more than once, the first: {twice[0]!r}",
            remedy="remove the repetitions, then run the command again",
        )
    return prompts


def epoch_prompts(prompts: Sequence[str], *, seed: int, used: int, count: int) -> list[str]:
    """``count`` prompts from position ``used`` of the run's endless sequence: seeded permutation after permutation.

    Args:
        prompts: The file's prompts, distinct.
        seed: The run seed.
        used: How many earlier epochs have taken.
        count: How many this epoch takes.
    """
    chosen: list[str] = []
    while len(chosen) < count:
        lap, position = divmod(used + len(chosen), len(prompts))
        order = generator("prompt-order", run_seed=seed, epoch=None, group=lap).permutation(len(prompts))
        chosen += [prompts[index] for index in order[position:]][: count - len(chosen)]
    return chosen


def _from_lines(text: str) -> list[str]:
    # Not splitlines(), for which a form feed or a Unicode line separator within a prompt ends it.
    return [line.strip() for line in text.split("\n") if line.strip()]


def _from_csv(path: Path, text: str) -> list[str]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if "prompt" not in (rows.fieldnames or []):
        raise UserError(
            f"{path} has the columns {', '.join(rows.fieldnames or ['none'])}, expected one named prompt",
            remedy="add a header line with a column named prompt",
        )
    return [row["prompt"].strip() for row in rows if (row["prompt"] or "").strip()]
