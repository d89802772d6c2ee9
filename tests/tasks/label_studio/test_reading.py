"""Exports are read a record at a time, whatever is in them and wherever a piece of the file ends."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.label_studio import reading
from tasks.label_studio.errors import BadExportError
from tasks.label_studio.reading import read_export

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def written(folder: Path, content: bytes) -> Path:
    (folder / "export.json.gz").write_bytes(gzip.compress(content))
    return folder / "export.json.gz"


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    records=st.lists(values, max_size=5),
    indent=st.sampled_from([None, 1]),
    ascii=st.booleans(),
    piece=st.integers(1, 9),
)
def test_records_are_what_json_reads(records: list, indent: int | None, ascii: bool, piece: int, tmp_path: Path):
    text = json.dumps(records, indent=indent, ensure_ascii=ascii)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reading, "PIECE", piece)
        found = list(read_export(written(tmp_path, text.encode("utf-8", "replace"))))
    assert repr(found) == repr(json.loads(text.encode("utf-8", "replace")))


def test_a_number_that_only_python_reads_is_no_damage(tmp_path: Path):
    text = b'[{"lead_time": Infinity}, {"lead_time": 1000000000000000000000000000000}]'
    assert [record["lead_time"] for record in read_export(written(tmp_path, text))] == [float("inf"), 10**30]


def test_a_long_export_takes_the_memory_of_a_piece(tmp_path: Path):
    path = tmp_path / "export.json.gz"
    with gzip.open(path, "wt") as file:
        file.write("[" + ",".join(json.dumps({"id": number, "data": "x" * 1000}) for number in range(20_000)) + "]")
    tracemalloc.start()
    try:
        assert sum(record["id"] for record in read_export(path)) == sum(range(20_000))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{}", b"3", b"[1,", b"[1", b"[,1]", b"[1,]", b"[1 2]", b"[1}", b"[1] 2", b"[1]]", b'["\xff"]'],
)
def test_what_is_no_list_is_refused(content: bytes, tmp_path: Path):
    with pytest.raises(BadExportError, match=r"export\.json\.gz is not a readable export"):
        list(read_export(written(tmp_path, content)))


def test_a_damaged_file_is_refused(tmp_path: Path):
    path = written(tmp_path, json.dumps(list(range(10_000))).encode())
    whole = path.read_bytes()
    for place in range(20, len(whole), len(whole) // 20):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(BadExportError):
            list(read_export(path))
