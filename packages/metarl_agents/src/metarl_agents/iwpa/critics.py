"""Critics of several tasks: new networks, or weights of features that were learned before.

Letters: T tasks, U tasks of an update, M steps of a task, N rows, K actions of a row, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metarl_agents.iwpa.config import AdaptationConfig
from metarl_agents.iwpa.stacked import TaskNetworks, descend, features, outputs, product, row_blocks
from metarl_agents.iwpa.steps import Chunks, TaskSteps
from metarl_agents.networks.functional import Parameters

#: Names of the output weights (T, F) and, of a new network, of its constant (T,).
WEIGHTS, CONSTANT = "output.weight", "output.bias"


class TaskCritics:
    """Critics Q_t(s, a) of T tasks.

    While features are frozen and shared (`frozen`), only the output weights of each task are learned, and the
    features of the actions taken are computed once per step.

    Args:
        parameters: parameters of features and outputs; those of frozen features have a leading axis of 1.
        frozen: whether the features stay as they are.
        steps: the steps of all tasks.
        config: the settings.
    """

    def __init__(
        self, parameters: Parameters, *, frozen: bool, steps: TaskSteps, config: AdaptationConfig
    ) -> None:
        self.frozen = frozen
        self.steps, self.config = steps, config
        self.networks = self._learn(parameters, [WEIGHTS] if frozen else list(parameters))
        if frozen:
            width = parameters[WEIGHTS].shape[-1]
            self.taken_TMF = steps.reward.new_zeros(*steps.reward.shape, width)

    def _learn(self, parameters: Parameters, names: Sequence[str]) -> TaskNetworks:
        return TaskNetworks(
            parameters,
            names,
            learning_rate=self.config.learning_rate,
            max_norm=self.config.max_gradient_norm,
            target_period=self.config.target_period,
        )

    def unfreeze(self) -> None:
        """Gives every task a copy of the features of its own, which is learned from now on."""
        before, tasks = self.networks, len(self.steps.count)
        own = {
            name: value if name == WEIGHTS else value.expand(tasks, *value.shape[1:]).clone()
            for name, value in before.online.items()
        }
        self.networks = self._learn(own, list(own))
        self.networks.target[WEIGHTS] = before.target[WEIGHTS]
        self.frozen = False
        del self.taken_TMF

    @torch.no_grad()
    def added(self, tasks_U: Tensor, rows_U: Tensor) -> None:
        """Computes what is kept of new steps, one of each of these tasks."""
        if self.frozen:
            where = (tasks_U, rows_U)
            obs_U1O, act_U11A = self.steps.obs[where][:, None], self.steps.act[where][:, None, None]
            self.taken_TMF[where] = features(self.networks.online, obs_U1O, act_U11A)[:, 0, 0]

    # -- values -----------------------------------------------------------------------------------

    @torch.no_grad()
    def of_samples(
        self, tasks_U: Tensor, obs_UNO: Tensor, act_UNKA: Tensor, *, target: bool = True
    ) -> Tensor:
        """Values (U, N, K) of several actions of each row, of the target or of the online networks."""
        chosen = self.networks.chosen(tasks_U, target=target)
        found = [
            values(chosen, obs_UNO[:, block], act_UNKA[:, block]) for block in row_blocks(*act_UNKA.shape[:3])
        ]
        return torch.cat(found, 1)

    def slopes_of_samples(self, tasks_U: Tensor, obs_UNO: Tensor, act_UNKA: Tensor) -> tuple[Tensor, Tensor]:
        """Target values (U, N, K) and their derivatives (U, N, K, A) in the actions."""
        chosen = self.networks.chosen(tasks_U, target=True)
        found, slopes = [], []
        for block in row_blocks(*act_UNKA.shape[:3]):
            action = act_UNKA[:, block].detach().requires_grad_()
            value = values(chosen, obs_UNO[:, block], action)
            slopes.append(torch.autograd.grad(value.sum(), action)[0])
            found.append(value.detach())
        return torch.cat(found, 1), torch.cat(slopes, 1)

    def of_taken(self, chunks: Chunks) -> Tensor:
        """Target values (U, N) of the actions taken in the steps of the chunks."""
        act_UN1A = chunks.of(self.steps.act)[:, :, None]
        return self.of_samples(chunks.tasks, chunks.of(self.steps.obs), act_UN1A)[..., 0]

    # -- updates ----------------------------------------------------------------------------------

    def step(self, chunks: Chunks, target_UN: Tensor) -> tuple[Tensor, Tensor]:
        """One step on .5 (Q - target)^2, mean over the valid steps of each task.

        Returns:
            The losses (U,), and the tasks whose target networks were replaced.
        """
        if self.frozen:
            return self._step_of_weights(chunks, target_UN)
        leaves = self.networks.leaves(chunks.tasks)
        act_UN1A = chunks.of(self.steps.act)[:, :, None]
        value_UN = values(leaves, chunks.of(self.steps.obs), act_UN1A)[..., 0]
        loss_U = task_means(0.5 * (value_UN - target_UN).square(), chunks.valid)
        due = descend(self.networks, leaves, loss_U.sum(), chunks.tasks)
        return loss_U.detach(), due

    @torch.no_grad()
    def _step_of_weights(self, chunks: Chunks, target_UN: Tensor) -> tuple[Tensor, Tensor]:
        """The step of the output weights. Values are linear in them, so their gradient needs no graph."""
        found_UNF = chunks.of(self.taken_TMF)
        weights_UF = self.networks.online[WEIGHTS][chunks.tasks]
        error_UN = product(found_UNF, weights_UF[:, None])[..., 0] - target_UN
        error_UN = torch.where(chunks.valid, error_UN, 0.0)
        share_UN = error_UN / chunks.valid.sum(1, keepdim=True)
        gradient_UF = torch.bmm(share_UN[:, None], found_UNF)[:, 0]
        loss_U = 0.5 * (share_UN * error_UN).sum(1)
        return loss_U, self.networks.step({WEIGHTS: gradient_UF}, chunks.tasks)


def values(parameters: Parameters, obs_UNO: Tensor, act_UNKA: Tensor) -> Tensor:
    """Values (U, N, K) of critics with these parameters."""
    found = features(parameters, obs_UNO, act_UNKA)
    return outputs(found, parameters[WEIGHTS], parameters.get(CONSTANT))


def task_means(values_UN: Tensor, valid_UN: Tensor) -> Tensor:
    """Means (U,) over the valid rows of each task; the values of others have no influence."""
    return torch.where(valid_UN, values_UN, 0.0).sum(1) / valid_UN.sum(1)
