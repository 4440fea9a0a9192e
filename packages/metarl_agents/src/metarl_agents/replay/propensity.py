"""Propensity scores: the ratio of the probabilities of a sample in new and old data, and sample weights.

Meta-Q-Learning (Fakoor et al. 2020, arXiv:1910.00125, section 2.2 and its released code). The
classifier is that of scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

#: Maximum number of iterations of the solver (released code).
MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class Propensity:
    """A logistic classifier with labels -1 for new and +1 for old data: f(x) = w x + b.

    Attributes:
        weights: w (F,).
        bias: b.
    """

    weights: Tensor
    bias: float

    @classmethod
    def fit(cls, new_NF: NDArray[Any], old_MF: NDArray[Any], inverse_penalty: float) -> Propensity:
        """Fits w and b by L2-regularised logistic regression, eq. 11.

        Args:
            new_NF: features of the new data.
            old_MF: features of the old data.
            inverse_penalty: C, weight of the data against the penalty on w.

        Raises:
            ValueError: when new or old data are empty, or a feature is not finite.
        """
        if not len(new_NF) or not len(old_MF):
            raise ValueError("a propensity score needs new and old data, and one of them is empty")
        labels = np.repeat((-1, 1), (len(new_NF), len(old_MF)))
        model = LogisticRegression(C=inverse_penalty, solver="lbfgs", max_iter=MAX_ITERATIONS)
        model.fit(np.concatenate((new_NF, old_MF)).astype(np.float64), labels)
        return cls(torch.tensor(model.coef_[0], dtype=torch.float32), float(model.intercept_[0]))

    def odds(self, features_BF: Tensor, *, clip: float, floor: float) -> Tensor:
        """Beta = P(new) / P(old) = exp(-f), eq. 12, clipped above; without gradient, shape (B,).

        Args:
            features_BF: features.
            clip: f is at least -clip, so that beta is at most exp(clip).
            floor: values of beta below this are set to 0.
        """
        with torch.no_grad():
            logits_B = features_BF @ self.weights.to(features_BF) + self.bias
            odds_B = (-logits_B.clamp(min=-clip)).exp()
            return odds_B.masked_fill(odds_B < floor, 0.0)


def effective_sample_size(weights_B: Tensor) -> Tensor:
    """Normalised effective sample size (sum w)^2 / (n sum w^2) in [0, 1], eq. 13; nan if all are 0."""
    return weights_B.sum().square() / (weights_B.square().sum() * len(weights_B))
