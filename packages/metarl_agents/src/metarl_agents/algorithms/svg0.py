"""SVG(0) with Retrace: an actor-critic whose policy follows the gradient of the critic in the actions.

Heess et al. 2015 (arXiv:1510.09142) with the off-policy corrections of Munos et al. 2016 (arXiv:1606.02647),
over all training tasks at once. Galashov et al. 2020 (arXiv:2009.04875) call it RS(0): it is their baseline
without a behaviour prior. Policy and critic receive the id of the training task, so neither can be used on
other tasks.

The paper gives neither the sizes of networks nor the number of action samples; these are from the public code
of the same group (acme). There is one critic, and the target networks are copies that are replaced at
regular intervals.
"""

from dataclasses import dataclass
from typing import ClassVar

from metarl_agents.priors.algorithm import MultiTaskAlgorithm
from metarl_agents.priors.config import RetraceConfig
from metarl_agents.priors.policy import MultiTaskPolicy
from metarl_agents.priors.value_gradient import LOSSES, ValueGradientAlgorithm


@dataclass(frozen=True)
class SVG0Config(RetraceConfig):
    """Configuration of SVG(0).

    Attributes:
        entropy_cost: weight of the entropy of the policy in its loss. The entropy is that of the
            Gaussian; the estimate in the public code, from samples without a gradient, has an expected
            gradient of zero.
    """

    entropy_cost: float = 0.0

    may_be_zero: ClassVar[tuple[str, ...]] = (*RetraceConfig.may_be_zero, "entropy_cost")


class SVG0(ValueGradientAlgorithm[MultiTaskPolicy], MultiTaskAlgorithm):
    """SVG(0) with Retrace; see the module for the source."""

    config_class: ClassVar[type[SVG0Config]] = SVG0Config
    config: SVG0Config
    has_prior = False
    loss_names: ClassVar[tuple[str, ...]] = LOSSES
