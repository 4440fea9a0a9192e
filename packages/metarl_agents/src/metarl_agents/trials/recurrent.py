"""A Gaussian policy with a recurrent cell, and whole trials as the sequences it is trained on.

Duan et al. 2016 (arXiv:1611.02779), section 2.2: at every step the cell sees the observation, the
previous action, the previous reward and a flag that an episode has just ended, also across the border
of two episodes.

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

from metarl_agents.networks.functional import MIN_LOG_STD, Gaussian
from metarl_agents.networks.perceptrons import linear
from metarl_agents.trials.advantages import task_advantages
from metarl_agents.trials.episodes import Episodes, executed, packed

#: The recurrent cells by name.
CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class RecurrentGaussian(nn.Module):
    """Tanh layers, a recurrent cell, and a Gaussian head: linear means, log sigma a free vector.

    Dense weights start Xavier-uniform and biases at zero, as `GaussianMLP`'s. The cell starts as
    TensorFlow's, which the released code of ProMP's RL2 has: Xavier-uniform over input and state
    together, biases zero, but 1 for an LSTM's forget gate and both gates of a GRU.

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
        _start_cell(self.cell, generator)
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

    @torch.no_grad()
    def step(self, inputs_RI: Tensor, state_RK: Tensor, tasks: int) -> tuple[Gaussian, Tensor]:
        """Action distributions (R, A) of one step, and the state (R, K) after it, for acting.

        The same as `forward`. Each task's rows have products of their own, so that what is computed for a
        task does not depend on the number of other tasks, bit for bit.

        Args:
            inputs_RI: the inputs; rows of one task lie side by side.
            state_RK: the state.
            tasks: number of tasks.
        """

        def product(rows_TEX: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return torch.bmm(rows_TEX, weight.mT.expand(tasks, -1, -1)).add_(bias)

        cell, width = self.cell, self.cell.hidden_size
        hidden = inputs_RI.view(tasks, -1, inputs_RI.shape[-1])
        for layer in self.encoder:
            if isinstance(layer, nn.Linear):
                hidden = product(hidden, layer.weight, layer.bias).tanh_()
        state_TEK = state_RK.view(tasks, -1, self.state_width)
        before = state_TEK[..., :width]
        weight_ih, weight_hh, bias_ih, bias_hh = cell.parameters()
        gates = product(hidden, weight_ih, bias_ih)
        recurrent = product(before, weight_hh, bias_hh)
        if isinstance(cell, nn.LSTM):
            entry, forget, candidate, exit_ = (gates + recurrent).chunk(4, -1)
            memory = forget.sigmoid() * state_TEK[..., width:] + entry.sigmoid() * candidate.tanh()
            output = exit_.sigmoid() * memory.tanh()
            state_TEK = torch.cat((output, memory), -1)
        else:
            reset, update = (gates[..., : 2 * width] + recurrent[..., : 2 * width]).sigmoid().chunk(2, -1)
            candidate = (gates[..., 2 * width :] + reset * recurrent[..., 2 * width :]).tanh()
            output = state_TEK = torch.lerp(candidate, before, update)
        mean = product(output, self.head.weight, self.head.bias)
        chosen = Gaussian(mean.flatten(0, 1), self.log_std.clamp(min=MIN_LOG_STD))
        return chosen, state_TEK.flatten(0, 1)


@torch.no_grad()
def _start_cell(cell: nn.GRU | nn.LSTM, generator: torch.Generator) -> None:
    # Blocks of rows that TensorFlow keeps as one matrix, and rows whose bias is 1. PyTorch's order of
    # gates is input, forget, cell, output for an LSTM, and reset, update, candidate for a GRU.
    width = cell.hidden_size
    blocks = [slice(0, 4 * width)]
    ones = slice(width, 2 * width)
    if isinstance(cell, nn.GRU):
        blocks = [slice(0, 2 * width), slice(2 * width, 3 * width)]
        ones = slice(0, 2 * width)
    for name, parameter in cell.named_parameters():
        if name.startswith("bias"):
            parameter.zero_()
            continue
        for rows in blocks:
            bound = math.sqrt(6.0 / (cell.input_size + width + rows.stop - rows.start))
            parameter[rows].uniform_(-bound, bound, generator=generator)
    # PyTorch adds two biases.
    dict(cell.named_parameters())["bias_ih_l0"][ones] = 1.0


def _xavier(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    bound = math.sqrt(6.0 / (inputs + outputs))
    return linear(inputs, outputs, generator=generator, weight_bound=bound, bias=0.0)


class TrialSequences(NamedTuple):
    """R trials as sequences of the steps that happened, padded at their ends to S steps.

    Attributes:
        inputs: what the cell sees (S, R, I).
        act: actions (S, R, A), as drawn from the policy.
        advantage: advantages (S, R).
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
    standardise: bool = True,
    action_scale: float = 1.0,
    tasks: int | None = None,
    device: torch.device,
) -> TrialSequences:
    """The P successive episodes of every rollout as one sequence, with advantages.

    Args:
        batches: the episodes, first ones first.
        gamma: discount.
        gae_lambda: lambda of advantages.
        per_episode: whether returns and the baseline's time end with every episode; otherwise both run
            on through the trial, so that an episode is credited with what it found out for later ones.
        standardise: whether advantages get mean 0 and deviation 1 over each task.
        action_scale: what the environment was given of an action, see `episodes.executed`.
        tasks: number of tasks of the mean in which steps are weighted; by default these tasks.
        device: where the tensors live.
    """
    # (T, E, P, H, ...): successive episodes of a rollout lie side by side.
    obs, act, reward, valid = (np.stack(column, 2) for column in zip(*batches, strict=True))
    count, rollouts, episodes, horizon = valid.shape
    previous_act, previous_reward = np.zeros_like(act), np.zeros_like(reward)
    given = executed(act, action_scale)
    previous_act[..., 1:, :] = given[..., :-1, :]
    previous_reward[..., 1:] = reward[..., :-1]
    # Across the border of two episodes: the last step that happened.
    last = valid[:, :, :-1].sum(-1)[..., None] - 1
    previous_act[:, :, 1:, 0] = np.take_along_axis(given[:, :, :-1], last[..., None], 3)[..., 0, :]
    previous_reward[:, :, 1:, 0] = np.take_along_axis(reward[:, :, :-1], last, 3)[..., 0]
    restarted = np.zeros(valid.shape)
    restarted[:, :, 1:, 0] = 1.0
    inputs = np.concatenate((obs, previous_act, previous_reward[..., None], restarted[..., None]), -1)

    def advantages(columns: Sequence[NDArray[Any]], *shape: int) -> NDArray[np.float64]:
        inputs, reward, valid = columns
        parts = (inputs.reshape(*shape, -1), reward.reshape(shape), valid.reshape(shape))
        return task_advantages(*parts, gamma=gamma, gae_lambda=gae_lambda, standardise=standardise)[0]

    columns = [inputs, reward, valid, act]
    if per_episode:
        columns.append(advantages(columns[:3], count, rollouts * episodes, horizon))
    valid_RM = valid.reshape(count * rollouts, -1)
    columns = packed([column.reshape(*valid_RM.shape, -1) for column in columns], valid_RM)
    inputs, valid, act = columns[0], columns[2], columns[3]
    advantage = columns[4] if per_episode else advantages(columns[:3], count, rollouts, len(inputs[0]))
    counts_T = valid_RM.reshape(count, -1).sum(1)
    weight = valid / ((tasks or count) * np.repeat(counts_T, rollouts))[:, None, None]

    def steps(array: NDArray[Any]) -> Tensor:
        rows = array.astype(np.float32, copy=False).reshape(*valid.shape[:2], -1)
        return torch.from_numpy(np.ascontiguousarray(rows.swapaxes(0, 1))).to(device)

    return TrialSequences(steps(inputs), steps(act), steps(advantage)[..., 0], steps(weight)[..., 0])
