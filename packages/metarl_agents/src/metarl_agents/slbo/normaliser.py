"""Running means and standard deviations of vectors, merged batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: A dimension with a smaller standard deviation is constant (SLBO's released code: the floors of its
#: normalisers are 1e-8 and, in the loss, 1e-6).
CONSTANT = 1e-6


class Normaliser(nn.Module):
    """Mean and population standard deviation of all vectors seen so far.

    The statistics are float64, and batches are merged by the formula of Chan et al. 1983, so the result does
    not depend on how the data are divided, up to rounding.

    Args:
        size: size D of the vectors.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))

    @torch.no_grad()
    def update(self, values_BD: Tensor) -> None:
        """Adds a batch of vectors, which may be empty."""
        batch = len(values_BD)
        if not batch:
            return
        values_BD = values_BD.to(torch.float64)
        mean_D = values_BD.mean(0)
        total = self.count + batch
        difference_D = mean_D - self.mean
        self.squares += (values_BD - mean_D).square().sum(0)
        self.squares += difference_D.square() * self.count * batch / total
        self.mean += difference_D * batch / total
        self.count.copy_(total)

    @property
    def std(self) -> Tensor:
        """Population standard deviations (D,), in float64; 1 before any data."""
        if self.count == 0:
            return torch.ones_like(self.squares)
        return (self.squares / self.count).sqrt()

    @property
    def scale(self) -> Tensor:
        """What vectors are divided by (D,): the standard deviation, and 1 for constant dimensions."""
        std_D = self.std
        return torch.where(std_D < CONSTANT, 1.0, std_D)

    @property
    def varies(self) -> Tensor:
        """Which dimensions (D,) are not constant, bool."""
        return self.std >= CONSTANT
