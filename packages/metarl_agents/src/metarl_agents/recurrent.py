"""A Gaussian policy with a recurrent cell, and whole trials as the sequences it is trained on.

Duan et al. 2016 (arXiv:1611.02779), section 2.2: at every step the cell sees the observation, the
previous action, the previous reward and a flag that an episode has just ended.

Letters besides the usual: R trials side by side, S steps of a trial over all its episodes, I inputs,
C width of the cell, K width of its whole state, P episodes of a trial.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl_agents.advantages import task_advantages
from metarl_agents.functional import MIN_LOG_STD, Gaussian
from metarl_agents.networks import linear
from metarl_agents.on_policy import Episodes, packed

#: The recurrent cells by name.
CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class RecurrentGaussian(nn.Module):
    """Tanh layers, a recurrent cell, and a Gaussian head: linear means, log sigma a free vector.

    Dense weights start Xavier-uniform and biases at zero, as `GaussianMLP`'s; the cell's start at
    U(±1/sqrt(C)), as PyTorch's do.

    Args:
        inputs: width I of an input.
        hidden: widths of the layers before the cell; may be empty.
        actions: width A of an action.
        cell: a name in `CELLS`.
        width: width C of the cell.
        generator: CPU generator of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        actions: int,
        *,
        cell: str,
        width: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [_xavier(inputs, size, generator), nn.Tanh()]
            inputs = size
        self.encoder = nn.Sequential(*layers)
        self.cell = CELLS[cell](inputs, width, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for parameter in self.cell.parameters():
                parameter.uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
        self.head = _xavier(width, actions, generator)
        self.log_std = nn.Parameter(torch.zeros(actions))
        #: Width K of the cell's state; an LSTM's is its output followed by its memory.
        self.state_width = 2 * width if cell == "lstm" else width

    def start(self, trials: int) -> Tensor:
        """The state (R, K) at the start of trials: zeros."""
        return self.log_std.new_zeros(trials, self.state_width)

    def forward(self, inputs_SRI: Tensor, state_RK: Tensor) -> tuple[Gaussian, Tensor]:
        """Action distributions (S, R, A) of a sequence, and the state (R, K) after it."""
        features_SRI = self.encoder(inputs_SRI)
        if isinstance(self.cell, nn.LSTM):
            output, memory = (part[None].contiguous() for part in state_RK.chunk(2, -1))
            outputs_SRC, last = self.cell(features_SRI, (output, memory))
            state_RK = torch.cat(last, -1)[0]
        else:
            outputs_SRC, last = self.cell(features_SRI, state_RK[None])
            state_RK = last[0]
        return Gaussian(self.head(outputs_SRC), self.log_std.clamp(min=MIN_LOG_STD)), state_RK


def _xavier(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    bound = math.sqrt(6.0 / (inputs + outputs))
    return linear(inputs, outputs, generator=generator, weight_bound=bound, bias=0.0)


class Trials(NamedTuple):
    """R trials as sequences of the steps that happened, padded at their ends to S steps.

    Attributes:
        inputs: what the cell sees (S, R, I).
        act: actions (S, R, A), as drawn from the policy.
        advantage: advantages (S, R), standardised over each task.
        weight: 1 / (number of tasks times number of the task's steps) (S, R), so that a weighted sum
            is a mean over tasks; 0 in padding.
    """

    inputs: Tensor
    act: Tensor
    advantage: Tensor
    weight: Tensor


def trial_sequences(
    batches: Sequence[Episodes],
    *,
    gamma: float,
    gae_lambda: float,
    per_episode: bool,
    device: torch.device,
) -> Trials:
    """The P successive episodes of every rollout as one sequence, with advantages.

    Args:
        batches: the episodes, first ones first.
        gamma: discount.
        gae_lambda: lambda of advantages.
        per_episode: whether returns and the baseline's time end with every episode; otherwise both run
            on through the trial, so that an episode is credited with what it found out for later ones.
        device: where the tensors live.
    """
    # (T, E, P, H, ...): successive episodes of a rollout lie side by side.
    obs, act, reward, valid = (np.stack(column, 2) for column in zip(*batches, strict=True))
    tasks, rollouts, episodes, horizon = valid.shape
    previous_act, previous_reward = np.zeros_like(act), np.zeros_like(reward)
    previous_act[..., 1:, :] = act[..., :-1, :].clip(-1.0, 1.0)
    previous_reward[..., 1:] = reward[..., :-1]
    restarted = np.zeros(valid.shape)
    restarted[:, :, 1:, 0] = 1.0
    inputs = np.concatenate((obs, previous_act, previous_reward[..., None], restarted[..., None]), -1)

    def advantages(columns: Sequence[NDArray[Any]], *shape: int) -> NDArray[np.float64]:
        obs, reward, valid = columns
        parts = (obs.reshape(*shape, -1), reward.reshape(shape), valid.reshape(shape))
        return task_advantages(*parts, gamma=gamma, gae_lambda=gae_lambda)[0]

    columns = [inputs, act, obs, reward, valid]
    if per_episode:
        columns.append(advantages(columns[2:], tasks, rollouts * episodes, horizon))
    valid_RM = valid.reshape(tasks * rollouts, -1)
    columns = packed([column.reshape(*valid_RM.shape, -1) for column in columns], valid_RM)
    inputs, act, valid = columns[0], columns[1], columns[4]
    advantage = columns[5] if per_episode else advantages(columns[2:], tasks, rollouts, len(inputs[0]))
    counts_T = valid_RM.reshape(tasks, -1).sum(1)
    weight = valid / (tasks * np.repeat(counts_T, rollouts))[:, None, None]

    def steps(array: NDArray[Any]) -> Tensor:
        rows = array.astype(np.float32, copy=False).reshape(*valid.shape[:2], -1)
        return torch.from_numpy(np.ascontiguousarray(rows.swapaxes(0, 1))).to(device)

    return Trials(steps(inputs), steps(act), steps(advantage)[..., 0], steps(weight)[..., 0])
