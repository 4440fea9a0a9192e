"""What agents share that learn values from chunks of episodes: use of each step, target copies, updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from tianshou.data import CollectStats
from tianshou.trainer import OffPolicyTrainerParams
from torch import Tensor, nn

from metarl_agents.networks.functional import Gaussian
from metarl_agents.networks.optimisers import adam
from metarl_agents.networks.targets import PolyakTarget
from metarl_agents.priors.config import LearnerConfig
from metarl_agents.priors.samples import samples
from metarl_agents.replay.algorithm import MetaOffPolicyAlgorithm
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.chunks import draw_chunks
from metarl_agents.replay.collector import MetaCollector
from metarl_agents.replay.policy import MetaPolicy

#: Column of the replay buffer: log-density of the action, as it was chosen, under the acting policy.
LOG_MU = "log_mu"


class LearnerPolicy(MetaPolicy):
    """A policy that has all networks of its agent; its subclass says which."""

    networks: Any

    def drawn(self, distribution: Gaussian, deterministic: bool) -> tuple[Tensor, Tensor]:
        """Actions (R, A), drawn or the mean, and the logarithms (R,) of their densities."""
        actions_RA = distribution.mean if deterministic else distribution.draw(self.generator)
        return actions_RA, distribution.log_prob(actions_RA)


TPolicy = TypeVar("TPolicy", bound=LearnerPolicy)


class ChunkBatch(NamedTuple):
    """B chunks of S steps, the data of one gradient step.

    Attributes:
        obs: observations (B, S + 1, O); the last one follows the last step.
        act: actions (B, S, A) as they were chosen, not clipped.
        reward: rewards (B, S).
        discount: (B, S), 0 where the episode ended in a terminal state, else 1.
        log_mu: log-densities (B, S) of the actions under the policy that chose them.
        valid: (B, S) bool, false beyond the end of the episode.
        task: inputs (B, D) that say which task it is, or what is inferred of it.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    discount: Tensor
    log_mu: Tensor
    valid: Tensor
    task: Tensor


class ChunkLearner(MetaOffPolicyAlgorithm[TPolicy]):
    """Base class of agents that learn from chunks; a subclass implements the losses in `losses`.

    Args:
        policy: the acting policy, with all networks in one module, which has a target copy.
        config: the configuration.
        generator: random generator of the updates, on the device of the networks.
    """

    config_class: ClassVar[type[LearnerConfig]]
    config: Any

    def __init__(self, *, policy: TPolicy, config: Any, generator: torch.Generator) -> None:
        # A number that no iteration reaches: losses are reported as means of an iteration.
        super().__init__(
            policy=policy,
            training_reward=config.training_reward,
            report_every=2**31,
            generator=generator,
        )
        self.config = config
        # Hard copies: a step of size 1 towards the networks.
        self.target = PolyakTarget(policy.networks, tau=1.0)
        # Steps collected in iterations, and gradient steps taken. The number of gradient steps that are due
        # follows from both, so that no rounding adds up; both are part of the checkpoint.
        self.counters: Tensor
        self.register_buffer("counters", torch.zeros(2, dtype=torch.int64))

    def optimiser(self, network: nn.Module | None) -> Any:
        """Adam with clipped gradients; None for no network."""
        if network is None:
            return None
        factory = adam(self.config.learning_rate)
        return self._create_optimizer(network, factory, max_grad_norm=self.config.max_gradient_norm)

    def chunks(self, buffer: TaskReplayBuffer, tasks_B: IntArray, inputs_BD: Tensor) -> ChunkBatch:
        """A chunk of an episode of each of these tasks, with these inputs."""
        rows_BS, valid_BS = draw_chunks(buffer, tasks_B, self.config.chunk_length)
        # s_0, then the state after each step.
        obs_BSO = np.concatenate((buffer.obs.take(rows_BS[:, :1], 0), buffer.obs_next.take(rows_BS, 0)), 1)
        return ChunkBatch(
            self.tensor(obs_BSO),
            self.tensor(buffer.act.take(rows_BS, 0)),
            self.tensor(self.rewards(buffer).take(rows_BS)),
            self.tensor(1.0 - buffer.terminated.take(rows_BS).astype(np.float32)),
            self.tensor(buffer.info[LOG_MU].take(rows_BS)),
            self.tensor(valid_BS),
            inputs_BD,
        )

    # -- updates ----------------------------------------------------------------------------------

    @staticmethod
    def updates_per_iteration(config: Any) -> int:
        """Gradient steps of an iteration with the minimum number of steps; episodes may have more."""
        steps = config.tasks_per_iteration * config.steps_per_task
        updates: int = round(steps * config.learner_use / (config.batch_size * config.chunk_length))
        return max(1, updates)

    def gradient_steps(self, buffer: TaskReplayBuffer, collected: CollectStats) -> int:
        """As many as make the mean use of the collected steps `learner_use`, rounded down."""
        config = self.config
        self.counters[0] += collected.n_collected_steps
        steps, taken = (int(number) for number in self.counters)
        due = int(steps * config.learner_use / (config.batch_size * config.chunk_length))
        return due - taken

    def gradient_step(self, data: Any) -> dict[str, Tensor]:
        """One step of every network; every `target_period` steps, the target networks are copied."""
        result = self.losses(data)
        self.counters[1] += 1
        if int(self.counters[1]) % self.config.target_period == 0:
            self.target.follow()
        return result

    @abstractmethod
    def losses(self, data: Any) -> dict[str, Tensor]:
        """One step of every network. Returns the scalars in `loss_names`."""

    def sample(self, distribution: Gaussian) -> Tensor:
        """Actions (B, S, K, A) in states (B, S), K as configured; see `samples`."""
        chunks, states, actions = distribution.mean.shape
        noise_BSKA = torch.randn(
            (chunks, states, self.config.action_samples, actions),
            generator=self.generator,
            device=self.device,
            dtype=distribution.mean.dtype,
        )
        return samples(distribution, noise_BSKA)

    @classmethod
    def trainer_params(
        cls, config: Any, collector: MetaCollector, shared: Mapping[str, Any]
    ) -> OffPolicyTrainerParams:
        """Parameters with which one epoch of Tianshou's trainer is one iteration."""
        fewest, _ = collector.steps_per_iteration()
        return OffPolicyTrainerParams(
            **shared,
            collection_step_num_env_steps=fewest,
            # `gradient_steps` decides.
            update_step_num_gradient_steps_per_sample=1.0,
            batch_size=config.batch_size,
        )
