import numpy as np
import pytest
import zarr

from storage.embeddings import PROMPTS_FORMAT, StoredPrompts, write_prompts
from storage.errors import CorruptDataError, MissingDataError
from storage.zarr_arrays import write_array
from tests.support.project import flip_byte

EMBEDS = "prompts.zarr/embeds/c/0/0/0"


def test_prompts_come_back(tmp_path):
    embeds = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    prompts = ["", "ein Löwe", "一只猫"]
    content = write_prompts(tmp_path, prompts, embeds)
    found = StoredPrompts(tmp_path).read()
    assert list(found) == prompts
    np.testing.assert_array_equal(found["ein Löwe"], embeds[1])
    (tmp_path / "other").mkdir()
    assert write_prompts(tmp_path / "other", prompts[::-1], embeds[::-1].copy()) == content


def test_prompts_without_their_bytes_are_noticed(tmp_path):
    write_prompts(tmp_path, ["a"], np.ones((1, 2, 3), np.float32))
    (tmp_path / EMBEDS).unlink()
    with pytest.raises(MissingDataError, match="embeds"):
        StoredPrompts(tmp_path).read()


@pytest.mark.parametrize(
    ("prompts", "embeds", "message"),
    [
        (["a", "a"], np.ones((2, 1, 1), np.float32), "different prompts"),
        (["a"], np.ones((1, 1, 1), np.float64), "float32"),
        (["a"], np.full((1, 1, 1), np.nan, np.float32), "finite"),
        ([], np.ones((0, 1, 1), np.float32), "different prompts"),
    ],
)
def test_prompts_are_checked(tmp_path, prompts, embeds, message):
    with pytest.raises(ValueError, match=message):
        write_prompts(tmp_path, prompts, embeds)


def test_some_prompts_are_read_in_the_order_asked(tmp_path):
    embeds = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    write_prompts(tmp_path, ["", "a", "b", "c"], embeds)
    stored = StoredPrompts(tmp_path)
    assert stored.bytes_each == 2 * 3 * 4
    found = stored.read(["c", ""])
    assert list(found) == ["c", ""]
    np.testing.assert_array_equal(found["c"], embeds[3])
    assert stored.read([]) == {}
    with pytest.raises(MissingDataError, match=r"no embedding of \['d'\]; it has 4 prompts"):
        stored.read(["a", "d"])


def test_a_prompt_too_many_is_noticed(tmp_path):
    write_prompts(tmp_path, ["a", "b"], np.ones((2, 2, 3), np.float32))
    description = tmp_path / "prompts.zarr" / "zarr.json"
    description.write_text(description.read_text().replace('"a"', '"a", "c"'))
    with pytest.raises(CorruptDataError, match="3 prompts and embeddings"):
        StoredPrompts(tmp_path)


def test_damage_is_noticed_in_prompts_that_are_open(tmp_path):
    write_prompts(tmp_path, ["a", "b"], np.ones((2, 2, 3), np.float32))
    stored = StoredPrompts(tmp_path)
    stored.read(["b"])
    flip_byte(tmp_path / EMBEDS, 0)
    with pytest.raises(CorruptDataError, match="embeds cannot be read"):
        stored.read(["a"])
    stored.read(["b"])


def test_what_is_not_finite_is_noticed(tmp_path):
    group = zarr.create_group(tmp_path / "prompts.zarr", attributes={"format": PROMPTS_FORMAT, "prompts": ["a", "b"]})
    embeds = np.array([1, np.inf], np.float32).reshape(2, 1, 1)
    write_array(group, "embeds", embeds, ("prompt", "token", "feature"), np.nan, per_row=True)
    with pytest.raises(CorruptDataError, match=r"of 2 embeddings 1 are finite"):
        StoredPrompts(tmp_path).read()
