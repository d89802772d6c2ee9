import numpy as np
import pytest

from storage.digests import content_digest, image_digest, merge_digests


def test_order_layout_and_byte_order_do_not_matter():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = content_digest({"a": array, "b": "text"})
    assert content_digest({"b": "text", "a": np.asfortranarray(array)}) == expected
    assert content_digest({"a": array.astype(">f4"), "b": "text"}) == expected


def test_names_dtypes_shapes_and_bytes_matter():
    array = np.zeros((2, 3), np.float32)
    variants = [
        {"a": array},
        {"b": array},
        {"a": array.reshape(3, 2)},
        {"a": array.view(np.int32)},
        {"a": -array},
        {"a": array, "b": ""},
        {"ab": array, "": ""},
    ]
    assert len({content_digest(variant) for variant in variants}) == len(variants)


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match="'a' is an array of numbers or a text, got list"):
        content_digest({"a": [1]})
    with pytest.raises(TypeError, match="ndarray"):
        content_digest({"a": np.array([object()])})


def test_pixels_count_by_shape_and_value():
    image = np.zeros((2, 3, 3), np.uint8)
    assert image_digest(image) != image_digest(image.reshape(3, 2, 3))
    assert (
        merge_digests({"a": "1", "b": "2"})
        == merge_digests({"b": "2", "a": "1"})
        != merge_digests({"a": "2", "b": "1"})
    )
