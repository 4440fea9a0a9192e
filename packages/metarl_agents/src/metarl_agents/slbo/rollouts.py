"""Rollouts of one policy in real or virtual simulations of one task, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import metarl_envs
from metarl_agents.networks.functional import GaussianMLP

Mask = NDArray[np.bool_]


class Simulations(Protocol):
    """N simulations of a task: `VirtualVectorEnv`, or `RealSimulations`."""

    horizon: int
    num_envs: int
    seed: int | None

    def set_task(self, task: metarl_envs.Task) -> None:
        """The task of all episodes from the next reset on."""

    def begin(self) -> Tensor:
        """Starts all episodes; returns their observations (N, O)."""

    def advance(self, obs_NO: Tensor, act_NA: Tensor) -> tuple[Tensor, Mask]:
        """Next observations (N, O), and which of them are terminal (N,)."""

    def restart(self, ended_N: Mask, obs_NO: Tensor) -> Tensor:
        """Observations (N, O) with new starting states where episodes have ended."""

    def rewards(
        self, obs_BO: NDArray[Any], act_BA: NDArray[Any], next_obs_BO: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Rewards (B,) of the transitions of one `run`, in its order."""


class Rollouts(NamedTuple):
    """H steps of N simulations, time first; episodes that end before are followed by others.

    Attributes:
        obs: observations (H, N, O).
        act: actions (H, N, A) as they were drawn, not clipped.
        next_obs: observations after the steps (H, N, O).
        reward: rewards (H, N).
        terminated: (H, N) bool, whether a step ended in a terminal state.
        ended: (H, N) bool, whether the next row is of another episode.
    """

    obs: Tensor
    act: Tensor
    next_obs: Tensor
    reward: Tensor
    terminated: Tensor
    ended: Tensor

    @property
    def in_first_episode(self) -> Tensor:
        """Which steps (H, N) belong to the first episode of their simulation, the only one that is whole."""
        ended_HN = self.ended.to(torch.int64)
        return ended_HN.cumsum(0) == ended_HN

    @property
    def returns(self) -> Tensor:
        """Returns (N,) of the first episodes."""
        return (self.reward * self.in_first_episode).sum(0)

    @property
    def mean_return(self) -> float:
        """Mean return of the first episodes."""
        return float(self.returns.mean())

    def in_order(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Observations, actions, next observations and ends (N H, ...), simulation by simulation."""
        obs, act, next_obs, ended = (
            column.transpose(0, 1).flatten(0, 1) for column in (self.obs, self.act, self.next_obs, self.ended)
        )
        return obs, act, next_obs, ended


class RealSimulations:
    """Real simulations with the interface of virtual ones.

    Args:
        env: the simulations, in autoreset mode DISABLED; all have the same task.
        device: device of the tensors.
        horizon: time limit of an episode in steps.

    Attributes:
        seed: seed of the simulations at the next `begin`; None to go on with their generators.
    """

    def __init__(self, env: metarl_envs.MetaVectorEnv, device: torch.device, horizon: int) -> None:
        self.env, self.device, self.horizon = env, device, horizon
        self.num_envs = env.num_envs
        self.earned: list[NDArray[np.float64]] = []
        self.seed: int | None = None

    def begin(self) -> Tensor:
        """See `Simulations.begin`."""
        self.earned = []
        seed, self.seed = self.seed, None
        return self._tensor(self.env.reset(seed=seed)[0])

    def advance(self, obs_NO: Tensor, act_NA: Tensor) -> tuple[Tensor, Mask]:
        """See `Simulations.advance`; the simulations know their state."""
        del obs_NO
        next_NO, reward_N, terminated_N, _, _ = self.env.step(act_NA.cpu().numpy())
        self.earned.append(reward_N)
        return self._tensor(next_NO), terminated_N

    def restart(self, ended_N: Mask, obs_NO: Tensor) -> Tensor:
        """See `Simulations.restart`."""
        del obs_NO
        return self._tensor(self.env.reset(options={"reset_mask": ended_N})[0])

    def rewards(
        self, obs_BO: NDArray[Any], act_BA: NDArray[Any], next_obs_BO: NDArray[Any]
    ) -> NDArray[np.float64]:
        """The rewards that the simulations have given."""
        del obs_BO, act_BA, next_obs_BO
        return np.concatenate(self.earned)

    def set_task(self, task: metarl_envs.Task) -> None:
        """The task of all episodes from the next reset on."""
        self.env.set_tasks([task] * self.num_envs)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A copy: the environment may write into its array again.
        return torch.from_numpy(np.array(array, np.float32)).to(self.device)


@torch.no_grad()
def run(
    simulations: Simulations,
    policy: GaussianMLP,
    mean_O: Tensor,
    scale_O: Tensor,
    generator: torch.Generator,
    exploration: Callable[[], Tensor] | None = None,
) -> Rollouts:
    """Runs a policy with sampled actions for `horizon` steps in every simulation.

    Args:
        simulations: the simulations.
        policy: the policy, whose input is (s - mean) / scale.
        mean_O: mean (O,) of states.
        scale_O: what centred states are divided by (O,).
        generator: source of the actions' noise.
        exploration: returns what is added to the actions (N, A) of a step.

    Raises:
        FloatingPointError: when a predicted state is not finite.
    """
    steps, device = simulations.horizon, mean_O.device
    noise_HNA = torch.randn((steps, simulations.num_envs, policy.actions), generator=generator, device=device)
    noise_HNA *= policy.log_std.exp()
    # The input's scaling is part of the first layer.
    first = policy.get_parameter("weight_0") / scale_O
    weights = [first, *(policy.get_parameter(f"weight_{n}") for n in range(1, policy.layers))]
    biases = [policy.get_parameter(f"bias_{n}") for n in range(policy.layers)]
    biases[0] = biases[0] - first @ mean_O  # type: ignore[call-overload]
    layers = [(weight.T.contiguous(), bias) for weight, bias in zip(weights, biases, strict=True)]
    obs_NO = simulations.begin()
    shape = (steps, *obs_NO.shape)
    obs_HNO, next_HNO = torch.empty(shape, device=device), torch.empty(shape, device=device)
    act_HNA = torch.empty_like(noise_HNA)
    terminated_HN = np.zeros(shape[:2], bool)
    for step in range(steps):
        hidden = obs_NO
        for number, (weight, bias) in enumerate(layers):
            hidden = torch.addmm(bias, hidden, weight)
            if number < policy.layers - 1:
                hidden.tanh_()
        act_NA = hidden.add_(noise_HNA[step])
        if exploration is not None:
            act_NA = act_NA.add_(exploration())
        next_NO, terminated_N = simulations.advance(obs_NO, act_NA)
        obs_HNO[step], act_HNA[step], next_HNO[step] = obs_NO, act_NA, next_NO
        terminated_HN[step] = terminated_N
        obs_NO = next_NO
        if terminated_N.any() and step + 1 < steps:
            obs_NO = simulations.restart(terminated_N, next_NO)
    if not torch.isfinite(next_HNO).all():
        raise FloatingPointError(
            "the learned dynamics predict states that are not finite; lower learning_rate"
        )
    ended_HN = terminated_HN.copy()
    ended_HN[-1] = True
    columns = (column.flatten(0, 1).cpu().numpy() for column in (obs_HNO, act_HNA, next_HNO))
    reward_B = torch.from_numpy(simulations.rewards(*columns)).to(obs_HNO)
    return Rollouts(
        obs_HNO,
        act_HNA,
        next_HNO,
        reward_B.view(shape[:2]),
        torch.from_numpy(terminated_HN).to(device),
        torch.from_numpy(ended_HN).to(device),
    )
