"""Windows of past steps of an episode, selected by index from whole episodes.

Meta-Q-Learning (Fakoor et al. 2020, arXiv:1910.00125, section 3.1.1 and released code) computes a recurrent
context from (previous action, previous reward, previous observation). The released code stores two
flattened windows with every transition; here nothing is stored twice.

The history before step t of an episode consists of one synthetic entry (noise, 0, o_0), so that it is never
empty, and the entries (a_k, r_k, o_k), k < t. A window contains the last L of them. There are two differences
from the released code:

- Short histories are not padded with zeros, which would change the hidden state; training and acting use
  the same inputs. The released code pads them in training and in adaptation, but not in acting.
- The history after step t is the history before step t + 1. The released code omits the synthetic
  entry from it although the window would still contain it, at every t < L - 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer


class History(NamedTuple):
    """Entries around B transitions; two windows of L = S - 1 entries are views of them.

    Attributes:
        entries: (S, B, A + 1 + O) float32: action, reward, observation, oldest first; the last is
            the transition's own.
        valid: (S, B), false before the start of the episode; None if all are true.
    """

    entries: Tensor
    valid: Tensor | None

    @property
    def before(self) -> tuple[Tensor, Tensor | None]:
        """Window before the step, known when the action was chosen."""
        return self.entries[:-1], None if self.valid is None else self.valid[:-1]

    @property
    def after(self) -> tuple[Tensor, Tensor | None]:
        """Window after the step, known at the next observation."""
        return self.entries[1:], None if self.valid is None else self.valid[1:]


def entry_size(observations: int, actions: int) -> int:
    """Size of one entry."""
    return actions + 1 + observations


def draw_history(
    buffer: TaskReplayBuffer,
    rows_B: IntArray,
    length: int,
    *,
    noise: float,
    generator: torch.Generator,
) -> History:
    """The history of the transitions in these rows of the buffer.

    Args:
        buffer: whole episodes.
        rows_B: rows of transitions.
        length: number L of entries of a window.
        noise: standard deviation of the synthetic entry's action, which is clipped to [-1, 1].
        generator: random generator of that noise; the result is on its device.
    """
    rows_BS, own_BS = buffer.windows(rows_B, length + 1)
    rows_SB, own_SB = rows_BS.T, own_BS.T
    actions = buffer.act.shape[1]
    entries = np.empty((*rows_SB.shape, entry_size(buffer.obs.shape[1], actions)), np.float32)
    # Before the start of the episode, a window repeats its first row, whose observation is o_0.
    entries[..., :actions] = buffer.act.take(rows_SB, 0)
    entries[..., actions] = buffer.rew.take(rows_SB)
    entries[..., actions + 1 :] = buffer.obs.take(rows_SB, 0)
    missing_B = length - buffer.step_index[rows_B]
    device = generator.device
    starts = np.flatnonzero(missing_B > 0)
    eps = torch.randn(len(starts), actions, generator=generator, device=device)
    if not len(starts):
        return History(torch.from_numpy(entries).to(device), None)
    synthetic = missing_B[starts] - 1
    entries[synthetic, starts, :actions] = (eps * noise).clamp_(-1.0, 1.0).cpu().numpy()
    entries[synthetic, starts, actions] = 0.0
    valid_SB = own_SB.copy()
    valid_SB[synthetic, starts] = True
    valid = None if valid_SB.all() else torch.from_numpy(valid_SB).to(device)
    return History(torch.from_numpy(entries).to(device), valid)


def first_entries(observations_RO: Tensor, noise_RA: Tensor, noise: float) -> Tensor:
    """Synthetic entries (R, I) at the start of episodes.

    Args:
        observations_RO: their first observations.
        noise_RA: standard normal noise.
        noise: its standard deviation.
    """
    zeros_R1 = observations_RO.new_zeros(len(observations_RO), 1)
    return torch.cat(((noise_RA * noise).clamp(-1.0, 1.0), zeros_R1, observations_RO), -1)


def entries_of(observations_RO: Tensor, actions_RA: Tensor, rewards_R: Tensor) -> Tensor:
    """Entries (R, I) of steps."""
    return torch.cat((actions_RA, rewards_R[:, None], observations_RO), -1)
