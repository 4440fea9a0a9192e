"""The window GRU against PyTorch's, and contexts that advance one entry at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl_agents.networks.gru import RollingContext, WindowGRU, last_states

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def pair(inputs, width, seed=0, dtype=torch.float64):
    """Our unit, and PyTorch's with the same weights."""
    ours = WindowGRU(inputs, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
    theirs = torch.nn.GRU(inputs, width, dtype=dtype)
    with torch.no_grad():
        for name in NAMES:
            getattr(theirs, f"{name}_l0").copy_(getattr(ours, name))
    return ours, theirs


def randn(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 6), st.integers(1, 5), st.integers(1, 7), st.integers(0, 999), st.data()
)
def test_windows_and_gradients_are_those_of_pytorchs_unit(steps, batch, inputs, width, seed, data):
    ours, theirs = pair(inputs, width, seed)
    window, weigh = 2 * randn(steps, batch, inputs, seed=seed), randn(batch, width, seed=seed + 1)
    first = torch.tensor(data.draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch)))
    valid = torch.arange(steps)[:, None] >= first
    result = ours(window, valid)
    # Each window by itself, without the entries that are to be skipped.
    rows = [
        theirs(window[k:, i])[1][0] if k < steps else torch.zeros(width, dtype=torch.float64)
        for i, k in enumerate(first.tolist())
    ]
    expected = torch.stack(rows)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
    (result * weigh).sum().backward()
    ((expected * weigh).sum() + 0 * sum(p.sum() for p in theirs.parameters())).backward()
    for name in NAMES:
        torch.testing.assert_close(
            getattr(ours, name).grad, getattr(theirs, f"{name}_l0").grad, rtol=1e-9, atol=1e-11
        )


def test_a_shut_gate_keeps_the_state_at_exactly_zero():
    ours, _ = pair(3, 4, dtype=torch.float32)
    window = 100 * randn(5, 2, 3, dtype=torch.float32)
    valid = torch.zeros(5, 2, dtype=torch.bool)
    assert torch.equal(ours(window, valid), torch.zeros(2, 4))
    ours(window, valid).sum().backward()
    assert all(p.grad.abs().max() == 0.0 for p in ours.parameters())


def test_single_precision_is_as_exact_as_pytorchs():
    ours, theirs = pair(27, 15, dtype=torch.float32)
    window = randn(40, 64, 27, dtype=torch.float32)
    exact_ours, _ = pair(27, 15)
    exact = exact_ours(window.double(), None)
    error = (ours(window, None).double() - exact).abs().max()
    assert error < 5 * max((theirs(window)[1][0].double() - exact).abs().max(), 1e-7)


def test_without_gradient_several_units_roll_side_by_side():
    units = [pair(3, 4, seed)[0] for seed in range(3)]
    window, valid = randn(6, 5, 3), torch.arange(6)[:, None] >= torch.tensor([0, 1, 0, 5, 6])
    rolled = last_states(units, window, valid)
    for unit, state in zip(units, rolled, strict=True):
        torch.testing.assert_close(state, unit(window, valid), rtol=1e-12, atol=1e-14)
        assert not state.requires_grad
        with torch.no_grad():
            alone = unit(window, valid)
        assert not alone.requires_grad
        torch.testing.assert_close(state, alone, rtol=1e-12, atol=1e-14)


def test_there_is_no_second_derivative_to_be_had_by_mistake():
    ours, _ = pair(2, 3)
    (gradient,) = torch.autograd.grad(
        ours(randn(4, 2, 2), None).square().sum(), ours.weight_hh, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 4), st.integers(0, 99))
def test_a_rolling_context_is_the_unit_over_the_last_entries_at_every_step(steps, length, rollouts, seed):
    ours, theirs = pair(3, 4, seed)
    entries = randn(steps, rollouts, 3, seed=seed)
    memory = RollingContext(ours, rollouts, length)
    for step in range(steps):
        context = memory.push(entries[step])
        start = 0 if length is None else max(0, step + 1 - length)
        expected = theirs(entries[start : step + 1])[1][0]
        torch.testing.assert_close(context, expected, rtol=1e-10, atol=1e-12)
    assert memory.pushed == steps
