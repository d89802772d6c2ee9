"""Trajectories in zarr and PNG: write a shard, read it back; digests of what was computed.

Letters: n trajectories, T denoising steps, C × H × W latents, h × w pixels. One chunk is one trajectory and one zarr
shard holds all n, written in one assignment; chunks carry crc32c and are not compressed.
A missing zarr shard would read as its fill value: that is NaN, and NaN latents are refused in both directions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image

from storage.arrays import TrajectoryArrays, problem_of
from storage.digests import content_digest, image_digest
from storage.errors import CorruptDataError, MissingDataError
from storage.files import digest_file
from storage.layout import GROUPS_FILE, IMAGES_FOLDER, TRAJECTORIES_FILE, remedy_for
from storage.tables import GROUPS, read_table, write_table
from storage.zarr_arrays import open_array, open_group, read_array, texts, write_array

__all__ = [
    "TRAJECTORIES_FORMAT",
    "StoredShard",
    "TrajectoryArrays",
    "content_digest",
    "image_digest",
    "write_shard",
]

TRAJECTORIES_FORMAT = "d3po-trajectories/1"

_BFLOAT16_NAN = 0x7FC0
_PNG_LEVEL = 4
"""Pillow's own 6 takes flat pictures twice the time, for one or two per cent fewer bytes; grainy ones it takes the same."""
_LATENT_AXES = ("trajectory", "state", "channel", "height", "width")


def write_shard(path: Path, arrays: TrajectoryArrays, images: NDArray[Any] | None) -> dict[str, dict[str, str]]:
    """Write a shard's ``traj.zarr``, ``groups.parquet`` and ``images/<id>.png`` into a folder.

    Args:
        path: An attempt's folder.
        arrays: The trajectories.
        images: [n, h, w, 3] uint8 RGB of the decoded x_0, or None.

    Returns:
        Digests of what was computed, by trajectory id: ``trajectories`` and, with images, ``images`` (of the pixels).
        They do not depend on which trajectories share a shard.

    Raises:
        ValueError: A latent is NaN, a log-prob is not finite where it has to be, or the images have another shape.
    """
    if problem := problem_of(arrays):
        raise ValueError(f"These trajectories cannot be stored: {problem}")
    if images is not None and (images.dtype != np.uint8 or images.ndim != 4 or images.shape[::3] != (len(arrays), 3)):
        raise ValueError(f"images are [{len(arrays)}, h, w, 3] uint8, got {images.shape} {images.dtype}")
    _write_zarr(path / TRAJECTORIES_FILE, arrays)
    files = {} if images is None else _write_images(path, arrays.ids, images)
    rows = [
        {
            "trajectory_id": id_,
            "group_id": group,
            "prompt": prompt,
            "seeds": arrays.seeds.get(id_),
            "image": files.get(id_),
            "image_sha256": digest_file(path / files[id_]) if id_ in files else None,
        }
        for id_, group, prompt in zip(arrays.ids, arrays.group_ids, arrays.prompts, strict=True)
    ]
    write_table(path / GROUPS_FILE, rows, GROUPS)
    content = {"trajectories": {id_: _trajectory_digest(arrays, row) for row, id_ in enumerate(arrays.ids)}}
    if images is not None:
        content["images"] = {id_: image_digest(image) for id_, image in zip(arrays.ids, images, strict=True)}
    return content


class StoredShard:
    """A shard that is opened once and read often: what is small of it is kept, its latents are read when asked for.

    Args:
        path: The shard's folder, as ``Epoch.fetch`` gives it.

    Raises:
        MissingDataError: A file is gone.
        CorruptDataError: A chunk's checksum is wrong, or the parts do not fit each other.
        UnknownFormatError: Another version of the programme wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        group = open_group(path / TRAJECTORIES_FILE, TRAJECTORIES_FORMAT)
        self.ids = tuple(texts(group, "trajectory_ids"))
        self._row_of = {id_: row for row, id_ in enumerate(self.ids)}
        self._table = read_table(path / GROUPS_FILE, GROUPS).select(["trajectory_id", "group_id", "prompt", "seeds"])
        if self._table["trajectory_id"].to_pylist() != list(self.ids):
            raise CorruptDataError(
                f"{path}: {GROUPS_FILE} and {TRAJECTORIES_FILE} name other trajectories", remedy_for(path)
            )
        self._log_prob, self._timesteps, self._trainable = (
            read_array(open_array(group, name)) for name in ("log_prob", "timesteps", "trainable")
        )
        self._latents = open_array(group, "latents")
        self._latents_dtype = str(group.attrs.get("latents_dtype"))

    def read(self, ids: Sequence[str] | None = None) -> TrajectoryArrays:
        """Trajectories in this order; all of them by default.

        Raises:
            MissingDataError: An id is not in this shard, or the latents are gone.
            CorruptDataError: A chunk's checksum is wrong, a latent is NaN, or the parts do not fit each other.
        """
        wanted = self.ids if ids is None else tuple(ids)
        if unknown := sorted(set(wanted) - self._row_of.keys()):
            raise MissingDataError(
                f"{self._path} has no trajectories {unknown[:8]}; it has {self.ids[0]} … {self.ids[-1]}",
                remedy_for(self._path),
            )
        rows = [self._row_of[id_] for id_ in wanted]
        described = self._table.take(rows).to_pylist()
        try:
            arrays = TrajectoryArrays(
                ids=wanted,
                group_ids=tuple(row["group_id"] for row in described),
                prompts=tuple(row["prompt"] for row in described),
                latents=read_array(self._latents, rows),
                latents_dtype=self._latents_dtype,
                log_prob=self._log_prob[rows],
                timesteps=self._timesteps,
                trainable=self._trainable,
                seeds={row["trajectory_id"]: row["seeds"] for row in described if row["seeds"] is not None},
            )
        except CorruptDataError:
            raise
        except (ValueError, IndexError) as error:
            raise CorruptDataError(f"{self._path / TRAJECTORIES_FILE}: {error}", remedy_for(self._path)) from None
        if problem := problem_of(arrays):
            raise CorruptDataError(f"{self._path / TRAJECTORIES_FILE}: {problem}", remedy_for(self._path))
        return arrays


def _trajectory_digest(arrays: TrajectoryArrays, row: int) -> str:
    log_prob = arrays.log_prob[row]
    return content_digest(
        {
            "id": arrays.ids[row],
            "group_id": arrays.group_ids[row],
            "prompt": arrays.prompts[row],
            "latents_dtype": arrays.latents_dtype,
            "latents": arrays.latents[row],
            "log_prob": np.where(np.isnan(log_prob), np.nan, log_prob),  # one NaN, whatever bits it had
            "timesteps": arrays.timesteps,
            "trainable": arrays.trainable,
        }
    )


def _write_zarr(path: Path, arrays: TrajectoryArrays) -> None:
    group = zarr.create_group(
        path,
        attributes={
            "format": TRAJECTORIES_FORMAT,
            "trajectory_ids": list(arrays.ids),
            "latents_dtype": arrays.latents_dtype,
        },
    )
    absent: float | int = _BFLOAT16_NAN if arrays.latents_dtype == "bfloat16" else np.nan
    write_array(group, "latents", arrays.latents, _LATENT_AXES, absent, per_row=True)
    write_array(group, "log_prob", arrays.log_prob, ("trajectory", "step"), np.nan)
    write_array(group, "timesteps", arrays.timesteps, ("step",), -1)
    write_array(group, "trainable", arrays.trainable, ("step",), False)


def _write_images(path: Path, ids: Sequence[str], images: NDArray[Any]) -> dict[str, str]:
    """Write a PNG per trajectory; returns their paths within the shard, by id."""
    (path / IMAGES_FOLDER).mkdir()
    files = {id_: f"{IMAGES_FOLDER}/{id_}.png" for id_ in ids}
    for id_, image in zip(ids, images, strict=True):
        Image.fromarray(image).save(path / files[id_], format="PNG", compress_level=_PNG_LEVEL)
    return files
