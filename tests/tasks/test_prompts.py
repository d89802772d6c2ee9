"""Prompt files, and the order in which epochs take from them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.generation.prompts import epoch_prompts, read_prompts


def write(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def test_one_a_line(tmp_path: Path):
    file = write(tmp_path, "p.txt", "\ufeff a red square \r\n\r\nein blauer Kreis, groß\n".encode())
    assert read_prompts(file) == ["a red square", "ein blauer Kreis, groß"]


def test_csv_with_commas_quotes_and_other_columns(tmp_path: Path):
    file = write(tmp_path, "p.csv", b'id,prompt\n1,"a red, round ""thing"""\n2,\n3,a star\n')
    assert read_prompts(file) == ['a red, round "thing"', "a star"]


def test_what_a_prompt_holds_does_not_end_it(tmp_path: Path):
    lines = write(tmp_path, "p.txt", "a cat\u2028and a dog\na star\x0b here\n".encode())
    assert read_prompts(lines) == ["a cat\u2028and a dog", "a star\x0b here"]
    table = write(tmp_path, "p.csv", b'prompt,id\r\n"a cat\nand a dog",1\r\na star,2\r\n')
    assert read_prompts(table) == ["a cat\nand a dog", "a star"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", "holds no prompt"),
        ("p.csv", b"prompt\n", "holds no prompt"),
        ("p.csv", b"text,id\nx,1\n", "columns text, id, expected one named prompt"),
        ("p.csv", b"", "columns none"),
        ("p.txt", b"a\nb\na\nb\n", "2 prompts more than once, the first: 'a'"),
        ("p.txt", b"caf\xe9", "not UTF-8: byte 3"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str):
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(write(tmp_path, name, content))
    assert name in str(caught.value)
    assert "next:" in str(caught.value)


@given(count=st.integers(1, 12), prompts=st.integers(1, 9), epochs=st.integers(1, 5), seed=st.integers(0, 2**63 - 1))
def test_none_comes_twice_until_all_were_used(count: int, prompts: int, epochs: int, seed: int):
    names = [f"p{index}" for index in range(prompts)]
    sequence = [
        prompt for epoch in range(epochs) for prompt in epoch_prompts(names, seed=seed, used=epoch * count, count=count)
    ]
    assert len(sequence) == epochs * count
    for start in range(0, len(sequence), prompts):
        lap = sequence[start : start + prompts]
        assert len(set(lap)) == len(lap)


def test_the_order_is_the_seeds():
    names = [f"p{index}" for index in range(50)]
    first = epoch_prompts(names, seed=1, used=0, count=50)
    assert first == epoch_prompts(names, seed=1, used=0, count=50)
    assert first != epoch_prompts(names, seed=2, used=0, count=50)
    assert first != epoch_prompts(names, seed=1, used=50, count=50)
    assert first != names
