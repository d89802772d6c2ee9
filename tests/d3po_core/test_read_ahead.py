"""The next optimizer step's data are read while this one is computed: two steps' at most."""

import threading
import time

import pytest

from d3po_core.step_data import ReadAhead


def test_the_next_step_is_read_meanwhile_and_no_further() -> None:
    begun: list[int] = []

    def read(number: int) -> list:
        begun.append(number)
        return [number]

    with ReadAhead(read, 2, 5) as reading:
        for number in (2, 3, 4):
            assert reading.take(number) == [number]
            deadline = time.monotonic() + 120
            while begun[-1] != min(number + 1, 4) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.05)
            assert begun == list(range(2, min(number + 1, 4) + 1))


def test_it_does_not_wait_for_the_one_who_computes() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def read(number: int) -> list:
        if number == 1:
            entered.set()
            assert go_on.wait(120)
        return [number]

    with ReadAhead(read, 0, 2) as reading:
        assert reading.take(0) == [0]
        assert entered.wait(120), "the next is being read while this one would be computed"
        go_on.set()
        assert reading.take(1) == [1]


def test_what_goes_wrong_is_raised_where_the_step_is_taken() -> None:
    def read(number: int) -> list:
        if number == 1:
            raise ValueError("the shard is gone")
        return [number]

    with ReadAhead(read, 0, 3) as reading:
        assert reading.take(0) == [0]
        with pytest.raises(ValueError, match="the shard is gone"):
            reading.take(1)
