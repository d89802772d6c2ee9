import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.documents import canonical, decode, encode
from storage.errors import CorruptDataError, UnknownFormatError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda key: key not in ("format", "checksum")), values, max_size=4))
def test_what_goes_in_comes_out(body):
    assert decode(encode(body, "d3po-x/1"), "d3po-x/1", "x", "") == {**body, "format": "d3po-x/1"}


@given(st.data())
def test_no_flipped_bit_changes_what_is_read(data):
    body = {"number": 17, "text": "ä", "list": [1.5, None]}
    whole = encode(body, "d3po-x/1")
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    broken = bytearray(whole)
    broken[at // 8] ^= 1 << at % 8
    with pytest.raises((CorruptDataError, UnknownFormatError), match=r"x\.json"):
        decode(bytes(broken), "d3po-x/1", "x.json", "d3po audit")


def test_an_empty_file_is_named():
    with pytest.raises(CorruptDataError, match=r"plan\.json is empty \(0 bytes\)(.|\n)*next: d3po audit"):
        decode(b"", "d3po-plan/1", "plan.json", "d3po audit")


def test_another_format_is_refused_by_name():
    with pytest.raises(UnknownFormatError, match="'d3po-x/2'; this version reads 'd3po-x/1'"):
        decode(encode({}, "d3po-x/2"), "d3po-x/1", "x", "")
    with pytest.raises(UnknownFormatError, match="d3po-x/2"):
        encode({"format": "d3po-x/2"}, "d3po-x/1")


def test_a_cut_file_is_refused_at_any_length():
    whole = encode({"number": 17}, "d3po-x/1")
    for length in range(len(whole)):
        with pytest.raises(CorruptDataError, match=r"x\.json"):
            decode(whole[:length], "d3po-x/1", "x.json", "")


@pytest.mark.parametrize("data", [b"[]", b"{}", b"null", b'{"format": "d3po-x/1"}', b"\xff\xfe"])
def test_json_that_is_no_document_is_refused(data):
    with pytest.raises(CorruptDataError):
        decode(data, "d3po-x/1", "x", "")


def test_values_that_json_cannot_say_are_refused():
    with pytest.raises(ValueError, match="JSON compliant"):
        encode({"loss": float("nan")}, "d3po-x/1")


def test_canonical_text_does_not_depend_on_order():
    assert canonical({"b": 1, "a": [2]}) == canonical(json.loads('{"a":[2],"b":1}'))
