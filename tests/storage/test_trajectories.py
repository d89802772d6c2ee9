import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.errors import CorruptDataError, MissingDataError, UnknownFormatError
from storage.tables import GROUPS, read_rows
from storage.trajectories import (
    StoredShard,
    TrajectoryArrays,
    write_shard,
)
from storage.zarr_arrays import open_array, open_group, read_array, write_array
from tests.storage.samples import trajectories
from tests.support.project import flip_byte

LATENTS = "traj.zarr/latents/c/0/0/0/0/0"


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "demo" / "epochs" / "0003" / "shards" / "000000-ab12cd34"
    path.mkdir(parents=True)
    write_shard(path, *trajectories([0, 1]))
    return path


def assert_equal(found, expected):
    for name in expected.__slots__:
        left, right = getattr(found, name), getattr(expected, name)
        if isinstance(right, np.ndarray):
            np.testing.assert_array_equal(left, right, strict=True)
        else:
            assert left == right


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_shard_comes_back_bit_for_bit(tmp_path, dtype):
    arrays, images = trajectories([3, 4, 5], dtype)
    write_shard(tmp_path, arrays, images)
    assert_equal(StoredShard(tmp_path).read(), arrays)
    for id_, image in zip(arrays.ids, images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "images" / f"{id_}.png")), image)
    rows = read_rows(tmp_path / "groups.parquet", GROUPS)
    assert [row["image"] for row in rows] == [f"images/{id_}.png" for id_ in arrays.ids]


@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_trajectories_are_read_by_id_in_the_order_asked(shard, order):
    whole = StoredShard(shard).read()
    found = StoredShard(shard).read([whole.ids[row] for row in order])
    np.testing.assert_array_equal(found.latents, whole.latents[order])
    np.testing.assert_array_equal(found.log_prob, whole.log_prob[order])
    assert found.prompts == tuple(whole.prompts[row] for row in order)


def test_reading_some_rows_takes_the_memory_of_these_rows(tmp_path):
    """Scattered, falling and repeated places of rows; by zarr's own indexing it would be forty times as much."""
    latents = np.random.default_rng(0).normal(size=(24, 5, 4, 32, 32)).astype("float32")
    group = zarr.create_group(tmp_path / "some.zarr", attributes={"format": "some"})
    write_array(group, "latents", latents, ("trajectory", "state", "channel", "height", "width"), np.nan, per_row=True)
    stored, rows = open_array(open_group(tmp_path / "some.zarr", "some"), "latents"), [20, 21, 3, 2, 9, 3]
    read_array(stored, rows)  # what is imported at the first use is not counted
    tracemalloc.start()
    try:
        found = read_array(stored, rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, latents[rows])
    assert peak < 3 * found.nbytes


@pytest.mark.parametrize(("how", "error"), [("flipped", CorruptDataError), ("gone", MissingDataError)])
def test_damage_is_noticed_in_a_shard_that_is_open(shard, how, error):
    stored = StoredShard(shard)
    stored.read(["g000000-0"])
    if how == "gone":
        (shard / LATENTS).unlink()
    else:
        flip_byte(shard / LATENTS, 0)
    with pytest.raises(error, match="latents"):
        stored.read(["g000000-0"])


def test_content_depends_on_numbers_alone(tmp_path):
    together = _write(tmp_path / "together", *trajectories([0, 1]))
    first = _write(tmp_path / "first", *trajectories([0]))
    second = _write(tmp_path / "second", *trajectories([1]))
    for kind in ("trajectories", "images"):
        assert together[kind] == {**first[kind], **second[kind]}
    arrays, images = trajectories([0, 1])
    images[0, 0, 0, 0] ^= 1
    latents = arrays.latents.copy()
    latents[3, 0, 0, 0, 0] = np.nextafter(latents[3, 0, 0, 0, 0], np.float32(9))
    changed = _write(tmp_path / "changed", replace(arrays, latents=latents), images)
    assert [id_ for id_ in arrays.ids if changed["images"][id_] != together["images"][id_]] == ["g000000-0"]
    assert [id_ for id_ in arrays.ids if changed["trajectories"][id_] != together["trajectories"][id_]] == ["g000001-1"]


def test_the_layout_is_one_chunk_a_trajectory_in_one_file(shard):
    import zarr

    group = zarr.open_group(shard / "traj.zarr", mode="r")
    latents = group["latents"]
    assert latents.chunks == (1, 4, 2, 4, 4)
    assert latents.shards == (4, 4, 2, 4, 4)
    assert latents.metadata.dimension_names == ("trajectory", "state", "channel", "height", "width")
    assert np.isnan(latents.fill_value)
    codecs = str(latents.metadata.codecs)
    assert "Crc32cCodec" in codecs
    assert "Zstd" not in codecs
    assert [path.name for path in (shard / "traj.zarr" / "latents" / "c").rglob("*") if path.is_file()] == ["0"]


@pytest.mark.parametrize("array", ["latents", "log_prob", "timesteps", "trainable"])
def test_a_deleted_or_empty_chunk_never_reads_as_fill_values(shard, array):
    (file,) = (path for path in (shard / "traj.zarr" / array / "c").rglob("*") if path.is_file())
    file.write_bytes(b"")
    with pytest.raises(MissingDataError, match=rf"{array}.*missing or empty(.|\n)*d3po heal \S*/demo --epoch 3"):
        StoredShard(shard).read()
    file.unlink()
    with pytest.raises(MissingDataError, match=array):
        StoredShard(shard).read(["g000000-0"])


@given(data=st.data())
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_flipped_bit_in_the_latents_is_noticed(shard, data):
    whole = (shard / LATENTS).read_bytes()
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    broken = bytearray(whole)
    broken[at // 8] ^= 1 << at % 8
    (shard / LATENTS).write_bytes(bytes(broken))
    try:
        with pytest.raises(CorruptDataError, match=r"latents(.|\n)*next: d3po heal \S*/demo --epoch 3"):
            StoredShard(shard).read()
    finally:
        (shard / LATENTS).write_bytes(whole)


def test_a_truncated_chunk_is_noticed(shard):
    whole = (shard / LATENTS).read_bytes()
    for length in (1, 10, len(whole) // 2, len(whole) - 1):
        (shard / LATENTS).write_bytes(whole[:length])
        with pytest.raises(CorruptDataError, match="latents"):
            StoredShard(shard).read()


@pytest.mark.parametrize("name", ["zarr.json", "latents/zarr.json"])
@pytest.mark.parametrize("how", ["empty", "delete"])
def test_broken_metadata_are_noticed(shard, name, how):
    path = shard / "traj.zarr" / name
    path.unlink() if how == "delete" else path.write_bytes(b"")
    with pytest.raises((CorruptDataError, MissingDataError), match=r"traj\.zarr(.|\n)*d3po heal"):
        StoredShard(shard).read()


def test_another_format_is_refused_by_name(shard):
    path = shard / "traj.zarr" / "zarr.json"
    path.write_text(path.read_text().replace("d3po-trajectories/1", "d3po-trajectories/9"))
    with pytest.raises(UnknownFormatError, match="d3po-trajectories/9"):
        StoredShard(shard).read()


def test_a_shard_of_other_trajectories_is_noticed(shard, tmp_path):
    _write(tmp_path / "other", *trajectories([7, 8]))
    shutil.copy(tmp_path / "other" / "groups.parquet", shard / "groups.parquet")
    with pytest.raises(CorruptDataError, match="name other trajectories"):
        StoredShard(shard).read()


def test_an_unknown_id_is_named(shard):
    with pytest.raises(MissingDataError, match="g000099-0"):
        StoredShard(shard).read(["g000099-0"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_nan_latents_are_refused(tmp_path, dtype):
    arrays, images = trajectories([0, 1], dtype)
    arrays.latents[2, 1, 0, 0, 0] = 0x7FC0 if dtype == "bfloat16" else np.nan
    with pytest.raises(ValueError, match="latents of g000001-0 are NaN"):
        write_shard(tmp_path, arrays, images)


def test_log_probs_are_finite_exactly_where_steps_are_trainable(tmp_path):
    arrays, images = trajectories([0])
    for step in (0, STEP_WITHOUT_DENSITY):
        log_prob = arrays.log_prob.copy()
        log_prob[1, step] = np.nan if step == 0 else 0.0
        with pytest.raises(ValueError, match="log-probs of g000000-1"):
            write_shard(tmp_path, replace(arrays, log_prob=log_prob), images)


STEP_WITHOUT_DENSITY = 2


def test_shapes_and_dtypes_are_checked():
    arrays, _ = trajectories([0])
    with pytest.raises(ValueError, match="first axes of latents"):
        replace(arrays, latents=arrays.latents[:, :-1])
    with pytest.raises(ValueError, match="latents is of dtype float32, got float64"):
        replace(arrays, latents=arrays.latents.astype(np.float64))
    with pytest.raises(ValueError, match="different trajectory ids"):
        replace(arrays, ids=("a", "a"))


def test_images_must_fit(tmp_path):
    arrays, images = trajectories([0])
    with pytest.raises(ValueError, match=r"images are \[2, h, w, 3\] uint8"):
        write_shard(tmp_path, arrays, images[:1])


def test_a_shard_can_have_no_images(tmp_path):
    arrays, _ = trajectories([0])
    assert list(write_shard(tmp_path, arrays, None)) == ["trajectories"]
    assert_equal(StoredShard(tmp_path).read(), arrays)


def _write(path, arrays, images):
    path.mkdir()
    return write_shard(path, arrays, images)


def test_images_without_a_transition_are_trajectories_of_one_state(tmp_path):
    """T = 0: what was imported has an x_0 and no log-prob."""
    latents = np.arange(2 * 1 * 2 * 3 * 3, dtype=np.float32).reshape(2, 1, 2, 3, 3)
    arrays = TrajectoryArrays(
        ids=("g000000-0", "g000000-1"),
        group_ids=("g000000", "g000000"),
        prompts=("a", "a"),
        latents=latents,
        latents_dtype="float32",
        log_prob=np.zeros((2, 0)),
        timesteps=np.zeros(0, np.int64),
        trainable=np.zeros(0, bool),
    )
    content = write_shard(tmp_path, arrays, None)
    read = StoredShard(tmp_path).read(["g000000-1", "g000000-0"])
    assert np.array_equal(read.latents, latents[::-1])
    assert (read.log_prob.shape, read.timesteps.shape, read.trainable.shape) == ((2, 0), (0,), (0,))
    assert len(set(content["trajectories"].values())) == 2
