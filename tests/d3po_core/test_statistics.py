"""Intervals against closed forms, against scipy, and against what they promise: to hold the truth 95 times of 100."""

import numpy as np
import pytest
from scipy.stats import binomtest

from d3po_core.noise import generator
from d3po_core.statistics import bootstrap_mean, wilson_share


def draw(name: str) -> np.random.Generator:
    return generator("bootstrap", run_seed=0, group=name)


@pytest.mark.parametrize(("wins", "of"), [(0, 5), (5, 5), (1, 3), (167, 300), (44, 300), (1, 1)])
def test_wilsons_interval_is_scipys(wins: int, of: int):
    expected = binomtest(wins, of).proportion_ci(confidence_level=0.95, method="wilson")
    found = wilson_share(wins, of)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.value == wins / of


@pytest.mark.parametrize(("wins", "of"), [(1, 0), (-1, 3), (4, 3)])
def test_a_share_of_nothing_is_refused(wins: int, of: int):
    with pytest.raises(ValueError, match="Expected 0"):
        wilson_share(wins, of)


def test_the_bootstrap_is_near_the_normal_interval_where_that_is_right():
    values = draw("values").normal(3.0, 2.0, size=400)
    found = bootstrap_mean(values, draw("interval"))
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == values.mean()
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng = draw("coverage")
    intervals = [bootstrap_mean(rng.normal(size=40), rng) for _ in range(200)]
    assert 0.88 <= np.mean([one.low <= 0 <= one.high for one in intervals]) <= 0.99


def test_the_same_values_have_the_same_interval():
    values = np.array([1.0, 2.0, 4.0])
    assert bootstrap_mean(values, draw("same")) == bootstrap_mean(values, draw("same"))


def test_one_prompt_says_nothing_of_the_spread():
    found = bootstrap_mean(np.array([2.0]), draw("one"))
    assert (found.value, found.low, found.high) == (2.0, None, None)
    assert str(found) == "2"


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0], [2.0]]])
def test_what_has_no_mean_is_refused(values: list):
    with pytest.raises(ValueError, match="finite value"):
        bootstrap_mean(np.array(values), draw("wrong"))
