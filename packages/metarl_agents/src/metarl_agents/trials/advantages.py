"""Returns, the linear feature baseline and generalised advantages of whole episodes.

Arrays are (..., H) over episodes of at most H steps, with a mask that is true where a step happened.
Episodes are complete: after their last step there is nothing to bootstrap from, which is how the
public code of MAML, ProMP and TESP treats the horizon.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Bound on observations among the baseline's features (rllab, ProMP).
OBSERVATION_BOUND = 10.0
#: Ridge coefficient (ProMP, which raises it while a solution is not finite; `lstsq` raises an error then).
RIDGE = 1e-5


def discounted_sums(values: NDArray[Any], discount: float) -> Floats:
    """x_t + discount x_{t+1} + ... along the last axis."""
    result = np.array(values, np.float64)
    for step in range(result.shape[-1] - 2, -1, -1):
        result[..., step] += discount * result[..., step + 1]
    return result


def baseline_features(obs_EHO: NDArray[Any]) -> Floats:
    """Features (..., H, 2 O + 4): clipped observation, its square, powers of time, and a one.

    Time is in hundreds of steps (Duan et al. 2016, rllab's linear feature baseline).
    """
    clipped = np.clip(np.asarray(obs_EHO, np.float64), -OBSERVATION_BOUND, OBSERVATION_BOUND)
    time = np.arange(clipped.shape[-2]) / 100.0
    powers = np.stack((time, time**2, time**3, np.ones_like(time)), -1)
    powers = np.broadcast_to(powers, (*clipped.shape[:-1], 4))
    return np.concatenate((clipped, clipped**2, powers), -1)


def fit_linear(features_MF: Floats, targets_M: Floats) -> Floats:
    """Coefficients (F,) of ridge regression."""
    gram_FF, moment_F = features_MF.T @ features_MF, features_MF.T @ targets_M
    solution = np.linalg.lstsq(gram_FF + RIDGE * np.eye(len(gram_FF)), moment_F, rcond=None)[0]
    return np.asarray(solution, np.float64)


def task_advantages(
    obs_TEHO: NDArray[Any],
    rewards_TEH: NDArray[Any],
    valid_TEH: NDArray[np.bool_],
    *,
    gamma: float,
    gae_lambda: float,
    standardise: bool = True,
) -> tuple[Floats, Floats]:
    """Advantages of every task, from a baseline fitted to the same episodes.

    Args:
        obs_TEHO: what the baseline sees of T tasks, E episodes each.
        rewards_TEH: rewards; ignored where not valid.
        valid_TEH: steps that happened, the first ones of each episode.
        gamma: discount.
        gae_lambda: lambda of generalised advantage estimation; 1 gives returns minus the baseline.
        standardise: whether to give them mean 0 and deviation 1 over each task's steps.

    Returns:
        Advantages (T, E, H), 0 where no step happened, and discounted returns (T, E, H).
    """
    rewards_TEH = np.where(valid_TEH, rewards_TEH, 0.0)
    returns_TEH = discounted_sums(rewards_TEH, gamma)
    features = baseline_features(obs_TEHO)
    advantages_TEH = np.zeros(returns_TEH.shape)
    for task, valid_EH in enumerate(valid_TEH):
        coefficients = fit_linear(features[task][valid_EH], returns_TEH[task][valid_EH])
        values_EH = np.where(valid_EH, features[task] @ coefficients, 0.0)
        following_EH = np.concatenate((values_EH[:, 1:], np.zeros((len(values_EH), 1))), 1)
        errors_EH = np.where(valid_EH, rewards_TEH[task] + gamma * following_EH - values_EH, 0.0)
        gae_EH = discounted_sums(errors_EH, gamma * gae_lambda)
        if standardise:
            chosen = gae_EH[valid_EH]
            gae_EH = (gae_EH - chosen.mean()) / (chosen.std() + 1e-8)
        advantages_TEH[task] = np.where(valid_EH, gae_EH, 0.0)
    return advantages_TEH, returns_TEH
