"""Several actions of a Gaussian policy in each state.

Letters: B chunks, S states, K actions of a state, A size of an action.
"""

from __future__ import annotations

from torch import Tensor

from metarl_agents.networks.functional import Gaussian

#: The states of a chunk in which its actions were taken, and those that follow them.
BEFORE, AFTER = slice(None, -1), slice(1, None)


def at(distribution: Gaussian, states: slice) -> Gaussian:
    """The distributions (B, S, A) in some of the states of each chunk."""
    return Gaussian(distribution.mean[:, states], distribution.log_std[:, states])


def samples(distribution: Gaussian, noise_BSKA: Tensor) -> Tensor:
    """Actions (B, S, K, A), differentiable in mean and standard deviation, for standard normal noise."""
    return distribution.mean[:, :, None] + distribution.log_std.exp()[:, :, None] * noise_BSKA


def log_prob(distribution: Gaussian, action_BSKA: Tensor) -> Tensor:
    """Log-densities (B, S, K) of several actions in each state."""
    return Gaussian(distribution.mean[:, :, None], distribution.log_std[:, :, None]).log_prob(action_BSKA)
