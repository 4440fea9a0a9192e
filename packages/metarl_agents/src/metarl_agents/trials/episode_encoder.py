"""A task embedding from the best episodes of a task: TESP's task encoder and its episode buffer.

Lan et al. 2019 (arXiv:1905.06527), section 4.1: a GRU over the triplets (observation, action, reward)
of an episode and a linear layer give g(episode); the embedding is the mean of g over the buffer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from metarl_agents.trials.episodes import Episodes


class EpisodeMemory(NamedTuple):
    """B episodes of each of T tasks.

    Attributes:
        entries: observations, actions and rewards side by side (T, B, H, I).
        valid: steps that happened (T, B, H).
        returns: undiscounted returns (T, B).
    """

    entries: Tensor
    valid: Tensor
    returns: Tensor

    def rows(self, chosen: slice) -> EpisodeMemory:
        """The same of some tasks."""
        return EpisodeMemory(self.entries[chosen], self.valid[chosen], self.returns[chosen])


def memory_of(episodes: Episodes, device: torch.device) -> EpisodeMemory:
    """A batch of episodes as a memory."""
    parts = (episodes.obs, episodes.act, episodes.reward[..., None])
    entries = np.concatenate(parts, -1, dtype=np.float32, casting="same_kind")
    arrays = (entries, episodes.valid, episodes.returns)
    return EpisodeMemory(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays))


def best_episodes(old: EpisodeMemory | None, new: EpisodeMemory, count: int | None) -> EpisodeMemory:
    """The best episodes of every task by return, among old and new ones (eqs. 3 and 4).

    Args:
        old: what was remembered; may be None.
        new: what has happened since.
        count: how many to keep; None keeps all.
    """
    if old is not None:
        # An evaluation's batches are as long as their longest episode; padding is not valid.
        steps = max(old.valid.shape[2], new.valid.shape[2])
        old, new = padded(old, steps), padded(new, steps)
        new = EpisodeMemory(*(torch.cat(pair, 1) for pair in zip(old, new, strict=True)))
    if count is None or new.returns.shape[1] <= count:
        return new
    # Stable, so that of equally good episodes the earlier ones stay.
    chosen = new.returns.argsort(dim=1, descending=True, stable=True)[:, :count]
    tasks = torch.arange(len(chosen), device=chosen.device)[:, None]
    return EpisodeMemory(*(column[tasks, chosen] for column in new))


def padded(memory: EpisodeMemory, steps: int) -> EpisodeMemory:
    """The same with room for so many steps an episode."""
    missing = steps - memory.valid.shape[2]
    return memory._replace(
        entries=pad(memory.entries, (0, 0, 0, missing)), valid=pad(memory.valid, (0, missing))
    )


class EpisodeEncoder(nn.Module):
    """GRU and linear layer; weights may be a task's own.

    Args:
        inputs: width I of an entry.
        width: width of the hidden state.
        outputs: width D of the embedding.
        generator: CPU generator of the initial weights. As in the released code the GRU's are those of
            a Keras cell, Glorot-uniform for inputs, orthogonal for the state, biases zero, and the last
            layer's have rows of norm 0.01.
    """

    def __init__(self, inputs: int, width: int, outputs: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.width = width
        bound = math.sqrt(6.0 / (inputs + 3 * width))
        self.weight_ih = nn.Parameter(
            torch.empty(3 * width, inputs).uniform_(-bound, bound, generator=generator)
        )
        self.weight_hh = nn.Parameter(nn.init.orthogonal_(torch.empty(3 * width, width), generator=generator))
        self.bias_ih = nn.Parameter(torch.zeros(3 * width))
        self.bias_hh = nn.Parameter(torch.zeros(3 * width))
        last = torch.randn(outputs, width, generator=generator)
        self.weight_out = nn.Parameter(0.01 * last / last.norm(dim=1, keepdim=True))
        self.bias_out = nn.Parameter(torch.zeros(outputs))

    def forward(self, memory: EpisodeMemory, own: Mapping[str, Tensor]) -> Tensor:
        """Embeddings (T, D) of every task's episodes.

        Args:
            memory: the episodes.
            own: this module's parameters with a leading task axis.
        """
        tasks, count, steps, inputs = memory.entries.shape
        width = self.width
        # Time comes first, so that the loop reads contiguous blocks.
        entries = memory.entries.permute(2, 0, 1, 3).reshape(steps, tasks, count, inputs)
        by_task = entries.transpose(0, 1).reshape(tasks, steps * count, inputs)
        projected = torch.baddbmm(own["bias_ih"][:, None], by_task, own["weight_ih"].mT)
        gates = projected.view(tasks, steps, count, 3 * width).transpose(0, 1).contiguous().unbind(0)
        complete = bool(memory.valid.all())
        alive = memory.valid.permute(2, 0, 1)[..., None].unbind(0)
        weight, bias = own["weight_hh"].mT, own["bias_hh"][:, None]
        state = entries.new_zeros(tasks, count, width)
        for step in range(steps):
            gate, recurrent = gates[step], torch.baddbmm(bias, state, weight)
            both = torch.sigmoid(gate[..., : 2 * width] + recurrent[..., : 2 * width])
            reset, update = both.chunk(2, -1)
            candidate = torch.tanh(torch.addcmul(gate[..., 2 * width :], reset, recurrent[..., 2 * width :]))
            following = torch.lerp(candidate, state, update)
            state = following if complete else torch.where(alive[step], following, state)
        outputs = torch.baddbmm(own["bias_out"][:, None], state, own["weight_out"].mT)
        return outputs.mean(1)
