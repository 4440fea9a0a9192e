"""Distributions of tasks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl_envs.families.distributions import Annulus, Arc, Choice, Disc, Pair, Power, Ring, Uniform

FEW = settings(max_examples=50, deadline=None)


@st.composite
def _distributions(draw):
    number = st.floats(-50, 50)
    width = st.floats(0.01, 50)
    kinds = ["uniform", "disc", "arc", "choice", "annulus", "ring", "power", "pair"]
    kind = draw(st.sampled_from(kinds))
    if kind == "uniform":
        low = draw(st.lists(number, min_size=1, max_size=4))
        return Uniform(tuple(low), tuple(x + draw(width) for x in low))
    if kind == "disc":
        return Disc(draw(width))
    if kind == "arc":
        low = draw(st.floats(-3.14, 3.14))
        return Arc(draw(width), low, low + draw(st.floats(0.01, 6.28)))
    if kind in ("annulus", "ring"):
        inner = draw(st.floats(0.0, 50.0))
        return (Annulus if kind == "annulus" else Ring)(inner, inner + draw(width))
    if kind == "power":
        bases = draw(st.lists(st.floats(1.1, 3.0), min_size=1, max_size=4))
        low = draw(st.floats(-3.0, 2.0))
        return Power(tuple(bases), low, low + draw(st.floats(0.01, 3.0)))
    if kind == "pair":
        half_width = draw(st.floats(1.0, 50.0))
        farthest = draw(st.floats(0.1, 0.99)) * half_width
        return Pair(half_width, draw(st.floats(0.0, 0.9)) * farthest, farthest)
    size = draw(st.integers(1, 3))
    values = draw(st.lists(st.tuples(*[number] * size), min_size=1, max_size=5, unique=True))
    return Choice(tuple(values))


@FEW
@given(distribution=_distributions(), seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40))
def test_samples_lie_in_their_distribution(distribution, seed, n):
    rows = distribution.sample(n, np.random.default_rng(seed))
    assert rows.dtype == np.float64
    assert rows.shape[0] == n
    assert distribution.contains(rows).shape == (n,)
    assert distribution.contains(rows).all()
    np.testing.assert_array_equal(rows, distribution.sample(n, np.random.default_rng(seed)))
    far = np.full((1, rows.shape[1]), 1e4)
    assert not distribution.contains(far).any()
    assert distribution.describe()


@FEW
@given(distribution=_distributions(), data=st.data())
def test_the_extreme_uniforms_map_into_the_distribution(distribution, data):
    edge = st.sampled_from([0.0, 1.0 - 2.0**-53, 2.0**-53, 0.5])
    u = np.array([[data.draw(edge) for _ in range(distribution.uniforms)] for _ in range(4)])
    assert distribution.contains(distribution.from_uniforms(u)).all()


def test_a_disc_is_uniform_in_area():
    rows = Disc(3.0).sample(20_000, np.random.default_rng(0))
    inside = np.hypot(*rows.T) < 1.5
    # A quarter of the area; the standard error is 0.003.
    assert inside.mean() == pytest.approx(0.25, abs=0.015)
    # Each quadrant has a quarter.
    quadrants = np.bincount(2 * (rows[:, 0] > 0) + (rows[:, 1] > 0), minlength=4) / len(rows)
    np.testing.assert_allclose(quadrants, 0.25, atol=0.015)


def test_a_ring_is_uniform_in_distance_and_an_annulus_in_area():
    both = [d.sample(20_000, np.random.default_rng(0)) for d in (Ring(3, 7), Annulus(3, 7))]
    near = [np.hypot(*rows.T) < 5.0 for rows in both]
    assert near[0].mean() == pytest.approx(0.5, abs=0.015)
    assert near[1].mean() == pytest.approx((25 - 9) / (49 - 9), abs=0.015)


def test_a_pair_keeps_its_distance_and_fills_the_room():
    rows = Pair(4.0, 0.5, 2.0).sample(20_000, np.random.default_rng(0))
    apart = np.hypot(rows[:, 2] - rows[:, 0], rows[:, 3] - rows[:, 1])
    assert (apart < 1.25).mean() == pytest.approx((1.25**2 - 0.25) / (4 - 0.25), abs=0.015)
    assert np.abs(rows).max() > 3.99
    np.testing.assert_allclose(rows.mean(axis=0), 0.0, atol=0.05)


def test_a_box_and_a_choice_are_uniform():
    rows = Uniform((0.0, -2.0), (1.0, 2.0)).sample(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(rows.mean(axis=0), [0.5, 0.0], atol=0.04)
    np.testing.assert_allclose(rows.std(axis=0), [12**-0.5, 4 * 12**-0.5], atol=0.02)
    members = Choice(((-1.0,), (0.0,), (1.0,))).sample(9_000, np.random.default_rng(0))
    np.testing.assert_allclose([(members == v).mean() for v in (-1, 0, 1)], 1 / 3, atol=0.02)
