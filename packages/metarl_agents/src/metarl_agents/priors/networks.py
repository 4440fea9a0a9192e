"""The networks of a multi-task agent."""

from __future__ import annotations

from typing import Any

from torch import nn

from metarl_agents.common.context import Context
from metarl_agents.networks.layer_norm import ActionValue, GaussianPolicy
from metarl_agents.priors.config import MultiTaskConfig
from metarl_agents.priors.tasks import TrainingTasks


class MultiTaskNetworks(nn.Module):
    """Critic Q(s, a, i), policy pi(a|s, i) and behaviour prior pi0(a|s), in one module for its target copy.

    The prior has no input for the task.

    Args:
        config: the configuration.
        context: spaces, and the seed of the initial weights.
        tasks: the training tasks.
        actor: whether there is a policy.
        prior: whether there is a behaviour prior.
    """

    def __init__(
        self, config: MultiTaskConfig, context: Context, tasks: TrainingTasks, *, actor: bool, prior: bool
    ) -> None:
        super().__init__()
        weights = context.weights()
        observations, actions = context.observations, context.actions

        def gaussian(task_inputs: int) -> GaussianPolicy:
            return GaussianPolicy(
                observations, task_inputs, config.hidden, actions, std=config.std, generator=weights
            )

        self.critic = ActionValue(
            observations,
            tasks.width,
            actions,
            config.critic_hidden,
            shared=config.shared_q,
            described=bool(config.descriptor),
            generator=weights,
        )
        # Not annotated as optional: an agent uses the networks that it has.
        self.actor: Any = gaussian(tasks.width) if actor else None
        self.prior: Any = gaussian(0) if prior else None
