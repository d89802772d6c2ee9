"""Comparisons with a known answer, mixed in among the epoch's: to see who looks, and who only presses keys.

Shown as any other comparison: on the same screen, under a uid of the same form, in shuffled order among the groups. They
are no groups of the epoch: nobody waits for them, and nothing is trained on them. What was shown is committed with the
push plan.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from d3po_core.noise import generator
from tasks.config import LabelsConfig
from tasks.context import EpochContext
from tasks.errors import UserError
from tasks.label_studio.parse import KnownAnswer

__all__ = ["GOLD_FOLDER", "GoldRow", "check_gold", "known_answers", "mix_in", "read_gold"]

GOLD_FOLDER = "gold"
"""Where the push plan keeps the images that were shown."""
_COLUMNS = ("prompt", "good", "bad")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldRow:
    """One comparison whose answer is known."""

    prompt: str
    good: tuple[Path, ...]
    """Images that are better than all of ``bad``."""
    bad: tuple[Path, ...]

    @property
    def images(self) -> tuple[Path, ...]:
        """All of them, the good ones first."""
        return self.good + self.bad


def read_gold(file: str, group_size: int) -> list[GoldRow]:
    """The known answers of a CSV file with the columns ``prompt``, ``good`` and ``bad``.

    Args:
        file: Images are named relative to its folder, several in one cell separated by ``;``.
        group_size: Images of one comparison.

    Raises:
        UserError: No such file, a column or an image is missing, or a row has another number of images.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"no file of known answers at {path} (looked from {Path.cwd()})", remedy="set labels.gold")
    with path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text)
        lacking = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise UserError(
                f"{path} lacks the column {', '.join(lacking)}; it has {reader.fieldnames}",
                remedy="see assets/shapes/gold/gold.csv for an example",
            )
        rows = [_row(path, number, line, group_size) for number, line in enumerate(reader, start=2)]
    if not rows:
        raise UserError(f"{path} holds no known answer", remedy="write one comparison a line, or leave labels.gold out")
    return rows


def check_gold(rows: Sequence[GoldRow], image_size: int) -> None:
    """Refuse images of another size than the epoch's: people would tell them apart.

    Args:
        rows: From ``read_gold``.
        image_size: Pixels along each side.

    Raises:
        UserError: An image is of another size, or is none.
    """
    for file in {file for row in rows for file in row.images}:
        try:
            with Image.open(file) as image:
                size = image.size
        except OSError as error:
            raise UserError(f"{file} is no image: {error}", remedy="replace it, or take its line out") from None
        if size != (image_size, image_size):
            raise UserError(
                f"{file} has {size[0]}×{size[1]} pixels, the epoch's images have {image_size}×{image_size}: people "
                "would tell the known answers apart",
                remedy="resize it, or take its line out",
            )


def known_answers(labels: LabelsConfig, groups: int) -> int:
    """How many comparisons with a known answer are shown among so many groups, for their share of all: at least one."""
    if labels.gold is None:
        return 0
    return max(1, round(groups * labels.gold_fraction / (1 - labels.gold_fraction)))


def mix_in(context: EpochContext, folder: Path) -> Mapping[str, KnownAnswer]:
    """The known answers that this epoch shows, their images written to a folder under the ids that people meet.

    Drawn from (run seed, epoch); where there are fewer than wanted, each is shown several times. Their ids go on where
    the groups' end, and say nothing of which image is the good one.
    """
    labels, seed = context.configuration.labels, context.configuration.seed
    if labels.gold is None:
        return {}
    rows = read_gold(labels.gold, context.configuration.sampling.group_size)
    groups = len(context.groups())
    drawn = generator("gold", run_seed=seed, epoch=context.number).permutation(len(rows))
    folder.mkdir()
    return {
        (name := f"g{groups + place:06d}"): _shown(context, name, rows[drawn[place % len(rows)]], folder)
        for place in range(known_answers(labels, groups))
    }


def _shown(context: EpochContext, name: str, row: GoldRow, folder: Path) -> KnownAnswer:
    order = generator("gold", run_seed=context.configuration.seed, epoch=context.number, group=name).permutation(
        len(row.images)
    )
    ids = [f"{name}-{place}" for place in range(len(row.images))]
    for id, image in zip(ids, order, strict=True):
        with Image.open(row.images[image]) as picture:  # written anew, so that no metadata tells
            picture.convert("RGB").save(folder / f"{id}.png")
    good = tuple(id for id, image in zip(ids, order, strict=True) if image < len(row.good))
    return KnownAnswer(prompt=row.prompt, order=tuple(ids), good=good)


def _row(path: Path, number: int, line: Mapping[str, str | None], group_size: int) -> GoldRow:
    good, bad = (
        tuple(path.parent / name.strip() for name in (line[column] or "").split(";") if name.strip())
        for column in ("good", "bad")
    )
    prompt = (line["prompt"] or "").strip()
    if not prompt or not good or not bad or len(good) + len(bad) != group_size:
        raise UserError(
            f"{path}, line {number}: expected a prompt and {group_size} images, at least one good and one bad; found "
            f"{len(good)} good and {len(bad)} bad",
            remedy="mend the line, or take it out",
        )
    for file in good + bad:
        if not file.is_file():
            raise UserError(f"{path}, line {number}: there is no image {file}", remedy="mend the line, or take it out")
    return GoldRow(prompt=prompt, good=good, bad=bad)
