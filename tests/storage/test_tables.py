import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import CorruptDataError, MissingDataError, UnknownFormatError
from storage.tables import JUDGEMENTS, METRICS, PAIRS, PEOPLE, read_rows, rows_digest, write_table
from tests.storage.samples import PAIR

texts = st.text(st.characters(codec="utf-8"), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
judgements = st.fixed_dictionaries(
    {
        "id": texts,
        "group_id": texts,
        "judge": texts,
        "verdict": texts,
        "trajectory_ids": st.lists(texts, max_size=3),
        "levels": st.lists(st.lists(finite, max_size=2), max_size=3),
        "updated_at": texts,
        "seconds": st.none() | finite,
    }
)
fixture_is_overwritten = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40
)


@given(st.lists(judgements, max_size=4))
@fixture_is_overwritten
def test_judgements_come_back(tmp_path, rows):
    path = tmp_path / "judgements.parquet"
    write_table(path, rows, JUDGEMENTS)
    assert read_rows(path, JUDGEMENTS) == rows
    write_table(path, iter(rows), JUDGEMENTS)
    assert read_rows(path, JUDGEMENTS) == rows


@given(st.lists(judgements, max_size=4), st.randoms())
@fixture_is_overwritten
def test_a_digest_does_not_depend_on_order(rows, shuffler):
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert rows_digest(shuffled, JUDGEMENTS) == rows_digest(rows, JUDGEMENTS)


def test_a_digest_depends_on_every_value():
    digests = {
        rows_digest([{**PAIR, **change}], PAIRS)
        for change in ({}, {"target": 0.75}, {"votes_tie": 1}, {"preferred": "x"})
    }
    assert len(digests) == 4
    assert rows_digest([PAIR], PAIRS) != rows_digest([PAIR, PAIR], PAIRS)


def test_an_empty_table_keeps_its_types(tmp_path):
    write_table(tmp_path / "p.parquet", [], PAIRS)
    assert pq.read_schema(tmp_path / "p.parquet").field("votes_tie").type == pa.int32()
    assert read_rows(tmp_path / "p.parquet", PAIRS) == []


def test_people_may_have_no_name(tmp_path):
    rows = [{"user": 7, "name": None, "email": None}]
    write_table(tmp_path / "p.parquet", rows, PEOPLE)
    assert read_rows(tmp_path / "p.parquet", PEOPLE) == rows


@pytest.mark.parametrize(
    "row",
    [
        {key: value for key, value in PAIR.items() if key != "target"},
        {**PAIR, "extra": 1},
        {**PAIR, "target": None},
        {**PAIR, "target": "much"},
        {**PAIR, "votes_tie": 2**40},
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, row):
    with pytest.raises(ValueError, match="d3po-pairs/1"):
        write_table(tmp_path / "p.parquet", [row], PAIRS)


def test_another_kind_of_table_is_refused_by_name(tmp_path):
    write_table(tmp_path / "p.parquet", [PAIR], PAIRS)
    with pytest.raises(UnknownFormatError, match="'d3po-pairs/1'; this reads 'd3po-metrics/1'"):
        read_rows(tmp_path / "p.parquet", METRICS)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    with pytest.raises(UnknownFormatError, match=r"\(none\)"):
        read_rows(tmp_path / "foreign.parquet", METRICS)


def test_a_flipped_bit_in_a_page_never_reads_as_another_value(tmp_path):
    path = tmp_path / "m.parquet"
    rows = [{"step": step, "name": f"train/{step}", "value": step / 7} for step in range(200)]
    write_table(path, rows, METRICS)
    whole = path.read_bytes()
    pages = len(whole) - int.from_bytes(whole[-8:-4], "little") - 8
    noticed = 0
    for at in range(4, pages, 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            assert read_rows(path, METRICS) == rows
        except CorruptDataError:
            noticed += 1
    assert noticed > 20


def test_missing_empty_and_cut_files_are_told(tmp_path):
    path = tmp_path / "demo" / "epochs" / "0002" / "p.parquet"
    path.parent.mkdir(parents=True)
    with pytest.raises(MissingDataError, match=r"p\.parquet(.|\n)*d3po heal \S*/demo --epoch 2"):
        read_rows(path, PAIRS)
    write_table(path, [PAIR], PAIRS)
    for length in (0, 3, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(CorruptDataError, match=r"p\.parquet"):
            read_rows(path, PAIRS)
