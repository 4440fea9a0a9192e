"""Means of losses over gradient steps without waiting for the device at each of them."""

from collections.abc import Mapping

import torch
from torch import Tensor


class RunningMeans:
    """Sums named scalars where they were computed and hands out means every `every` additions.

    Reading a loss as a Python number makes the CPU wait for an accelerator; here that happens once
    per report.
    """

    def __init__(self, names: tuple[str, ...], every: int, device: torch.device) -> None:
        self.names = names
        self.every = every
        self.count = 0
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)

    def add(self, values: Mapping[str, Tensor]) -> dict[str, float] | None:
        """Adds one step's values; at every `every`-th call returns the means and starts again."""
        self.sums += torch.stack([values[name].detach() for name in self.names])
        self.count += 1
        return self.take() if self.count >= self.every else None

    def take(self) -> dict[str, float]:
        """The means since the last report, and a new start; empty where nothing was added."""
        if not self.count:
            return {}
        means = dict(zip(self.names, (self.sums / self.count).tolist(), strict=True))
        self.sums.zero_()
        self.count = 0
        return means
