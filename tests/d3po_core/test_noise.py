"""Noise comes from addresses alone."""

import hashlib
import json

import numpy as np
import pytest

from d3po_core.noise import NoiseAddress, generator, normal

GOLDEN_KEY = 198314617333382789166748751652795583200
GOLDEN_INTEGERS = [2373169491, 1630043419, 4243294154, 2995866867]
GOLDEN_NORMALS = [-0.680732, -0.292861, -2.098469]
ADDRESS = {"run_seed": 3, "epoch": 2, "group": 17, "image": 1, "step": 5}


def test_the_same_address_is_the_same_noise_and_a_longer_draw_begins_with_the_shorter() -> None:
    short, long = normal((4, 8), "step", **ADDRESS), normal((8, 8), "step", **ADDRESS)
    assert short.dtype == np.float32
    assert np.array_equal(short, normal((4, 8), "step", **ADDRESS))
    assert np.array_equal(long[:4], short)


@pytest.mark.parametrize("part", ["run_seed", "epoch", "group", "image", "step"])
def test_every_part_of_the_address_matters_and_none_is_not_zero(part: str) -> None:
    base = normal((64,), "step", **ADDRESS)
    assert not np.array_equal(base, normal((64,), "step", **{**ADDRESS, part: ADDRESS[part] + 1}))
    if part != "run_seed":
        without, zero = {**ADDRESS, part: None}, {**ADDRESS, part: 0}
        assert not np.array_equal(normal((64,), "step", **without), normal((64,), "step", **zero))


def test_the_domain_matters_and_text_is_not_a_number() -> None:
    assert not np.array_equal(normal((64,), "step", **ADDRESS), normal((64,), "x_T", **ADDRESS))
    assert NoiseAddress(domain="a", run_seed=1, group=1).key != NoiseAddress(domain="a", run_seed=1, group="1").key


def test_key_is_128_bits_of_the_sha256_of_the_documented_spelling() -> None:
    spelling = '{"address":1,"domain":"x_T","epoch":3,"group":12,"image":null,"run_seed":7,"step":null}'
    address = NoiseAddress(domain="x_T", run_seed=7, epoch=3, group=12)
    assert str(address) == spelling
    assert json.loads(str(address))["epoch"] == 3
    assert address.key == int(hashlib.sha256(spelling.encode()).hexdigest()[:32], 16)


def test_golden_values() -> None:
    """Integers of a counter-based generator: the same on every machine. If this fails, old runs cannot be healed."""
    address = NoiseAddress(domain="x_T", run_seed=7, epoch=3, group=12)
    assert address.key == GOLDEN_KEY
    assert address.generator().integers(0, 2**32, 4).tolist() == GOLDEN_INTEGERS
    assert np.allclose(address.normal((3,)), GOLDEN_NORMALS, atol=1e-6)


def test_normals_are_standard() -> None:
    values = np.concatenate([normal((4, 16, 16), "x_T", run_seed=1, epoch=0, group=g).ravel() for g in range(200)])
    n = values.size
    assert abs(values.mean()) < 5 / np.sqrt(n)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((values**4).mean() - 3) < 5 * np.sqrt(96 / n)
    neighbours = values[: n // 2] @ values[n // 2 :] / (n // 2)
    assert abs(neighbours) < 5 / np.sqrt(n // 2)


def test_seeds_that_agree_in_32_bits_differ() -> None:
    """torch's CPU generator cannot tell these apart."""
    low, high = 5, 5 + 2**32
    assert not np.array_equal(normal((8,), "x_T", run_seed=low), normal((8,), "x_T", run_seed=high))


def test_generators_for_orders_are_repeatable() -> None:
    first = generator("order", run_seed=1, epoch=0, step=0).permutation(20)
    assert np.array_equal(first, generator("order", run_seed=1, epoch=0, step=0).permutation(20))
    assert not np.array_equal(first, generator("order", run_seed=1, epoch=0, step=1).permutation(20))
