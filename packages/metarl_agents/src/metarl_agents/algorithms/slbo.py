"""Multi-task SLBO: one model of the dynamics for all tasks, and a policy per task that is trained inside it.

Landolfi, Thomas and Ma 2019, "A Model-based Approach for Sample-efficient Multi-task Reinforcement Learning"
(arXiv:1907.04964), Algorithm 1, and its released code (slbo, branch maml). Training tasks are visited one
after the other. The policy of a task is trained in the learned dynamics, with the task's reward function,
before it takes a real step (warm-up); then real steps are collected, with correlated noise. A new
task is adapted to in the same way, in copies of what was learned.

Decisions where paper and code differ, or where this implementation differs from both:

- The policy has 32 tanh units per layer, as in the appendix and the code; the text says 100 ReLU units.
- Algorithm 1 trains further after a task's steps have been collected. The code's configuration of all results
  does not, and neither does this implementation in training tasks.
- The released code collects as many steps again as a development set, and does not learn from them. They are
  not collected here.
- After a time-out, the value of the state that followed is bootstrapped; see `generalised_advantages`.
- Rewards of virtual steps are those of clipped actions, as in the real environment.
- A task is drawn from the table without replacement until all have been visited.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import OnPolicyAlgorithm
from tianshou.trainer import OnPolicyTrainerParams
from torch import Tensor

import metarl_envs
from metarl_agents.common.algorithm import MetaAlgorithm
from metarl_agents.common.config import ConfigError
from metarl_agents.common.context import Context
from metarl_agents.common.policy import BatchPolicy
from metarl_agents.common.pool import Pool
from metarl_agents.common.seeding import part_seed, stream_seed
from metarl_agents.common.trainers import ModelBasedTrainer, torch_optimiser
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.networks.functional import Gaussian, GaussianMLP
from metarl_agents.networks.optimisers import adam
from metarl_agents.slbo.agent import SLBOAgent
from metarl_agents.slbo.collector import SLBOCollector
from metarl_agents.slbo.config import SLBOConfig
from metarl_agents.slbo.dynamics import Dynamics
from metarl_agents.slbo.learner import Trained
from metarl_agents.slbo.noise import OrnsteinUhlenbeck
from metarl_agents.slbo.policy_step import fresh_policy
from metarl_agents.slbo.rollouts import RealSimulations, Simulations
from metarl_agents.slbo.schedule import Schedule
from metarl_agents.slbo.training import REPORTED, Settings, VirtualTraining
from metarl_agents.slbo.transitions import TransitionStore
from metarl_agents.slbo.value import ValueNetwork
from metarl_agents.slbo.virtual_env import VirtualVectorEnv

ALONE = "an iteration of slbo is one process's work: use it without --actors, and run seeds side by side"


class SLBOPolicy(BatchPolicy):
    """The policy of the present task, with the dynamics that normalise its input.

    Args:
        config: the configuration.
        context: spaces, seed and device.
        dynamics: the learned dynamics.
    """

    def __init__(self, config: SLBOConfig, context: Context, dynamics: Dynamics) -> None:
        super().__init__(
            action_space=context.action_space,
            observation_space=context.observation_space,
            generator=context.stream("policy"),
        )
        self.config, self.seed = config, stream_seed(context.seed, "policies")
        self.sizes = context.observations, context.actions
        self.dynamics = dynamics
        self.actor = self._fresh(0)
        self.kept = self._fresh(0) if config.selection == "window" else None

    def _fresh(self, number: int) -> GaussianMLP:
        observations, actions = self.sizes
        generator = torch.Generator().manual_seed(part_seed(self.seed, number))
        return fresh_policy(observations, self.config.hidden, actions, generator)

    def begin_task(self, number: int) -> None:
        """Starts the policy of another task.

        Args:
            number: number of the policy in the run; it determines the initial weights.
        """
        self.actor.load_state_dict(self._fresh(number).state_dict())

    def keep(self) -> None:
        """Stores the policy, as that of the best task so far."""
        assert self.kept is not None
        self.kept.load_state_dict(self.actor.state_dict())

    def take_kept(self) -> None:
        """Goes back to the stored policy."""
        assert self.kept is not None
        self.actor.load_state_dict(self.kept.state_dict())

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A); all rollouts are of one task."""
        del rows
        constants = self.dynamics.constants()
        found: Gaussian = self.actor((observations_RO - constants.mean) / constants.scale)
        return found.mean if deterministic else found.draw(self.generator)


class SLBO(MetaAlgorithm, OnPolicyAlgorithm[SLBOPolicy]):
    """Multi-task SLBO; see the module for the source."""

    config_class: ClassVar[type[SLBOConfig]] = SLBOConfig
    loss_names: ClassVar[tuple[str, ...]] = REPORTED
    needs_replay: ClassVar[bool] = True
    #: The simulations are seeded in every iteration.
    keeps_environment: ClassVar[bool] = False
    config: SLBOConfig
    #: What computes large matrix products.
    large_products = "default"

    def __init__(self, config: SLBOConfig, context: Context) -> None:
        weights = context.weights()
        dynamics = Dynamics(
            context.observations,
            context.actions,
            config.dynamics_hidden,
            generator=weights,
            tiny=config.tiny_initialisation,
        )
        super().__init__(policy=SLBOPolicy(config, context, dynamics))
        self.begin_run(self.updates_per_iteration(config), context.stream("update"))
        self.config, self.context = config, context
        self.value = ValueNetwork(context.observations, config.value_hidden, generator=weights)
        self.exploration = OrnsteinUhlenbeck(
            config.episodes_per_task,
            context.actions,
            context.stream("exploration"),
            config.noise_decay,
            config.noise_scale,
        )
        self.to(context.device)
        self.reward_model = metarl_envs.RewardModel(context.family)
        self.model_optim = self._create_optimizer(dynamics, adam(config.learning_rate))
        self.value_optim = self._create_optimizer(self.value, adam(config.learning_rate))
        self.schedule = Schedule()

    @classmethod
    def from_config(cls, config: SLBOConfig, context: Context) -> Self:
        """See `MetaAlgorithm.from_config`.

        Raises:
            ValueError: when the family has no reward model.
        """
        return cls(config, context)

    @staticmethod
    def updates_per_iteration(config: SLBOConfig) -> int:
        """An inner iteration counts as one update."""
        return 1

    @classmethod
    def replay_buffer(cls, config: SLBOConfig, context: Context) -> TransitionStore:
        """The store of real steps.

        Raises:
            ConfigError: when the steps of one task do not fit.
        """
        steps = config.episodes_per_task * metarl_envs.family(context.family).horizon
        if steps > config.capacity:
            raise ConfigError(f"capacity must be at least the {steps} steps of a task, not {config.capacity}")
        return TransitionStore(config.capacity, context.observations, context.actions, context.device)

    def simulate(self, dynamics: Dynamics) -> Simulations:
        """Simulations in which policies are trained: virtual ones, or real ones as a control."""
        family, config = metarl_envs.family(self.context.family), self.config
        env = metarl_envs.MetaVectorEnv(
            family, config.virtual_episodes, autoreset_mode="Disabled", num_threads=self.threads
        )
        if config.dynamics == "true":
            return RealSimulations(env, self.context.device, family.horizon)
        return VirtualVectorEnv(env, self.reward_model, dynamics, family.horizon)

    # -- training -------------------------------------------------------------------------------------

    def collector(
        self,
        config: SLBOConfig,
        env: GymVectorEnvAdapter,
        *,
        tasks: Sequence[Any],
        horizon: int,
        generator: np.random.Generator,
        buffer: TransitionStore,
    ) -> SLBOCollector:
        """See `MetaAlgorithm.collector`."""
        self.tasks, self.store = tuple(tasks), buffer
        self.simulations = self.simulate(self.policy.dynamics)
        return SLBOCollector(
            policy=self.policy,
            env=env,
            tasks=tasks,
            config=config,
            dynamics=self.policy.dynamics,
            store=buffer,
            exploration=self.exploration,
            schedule=self.schedule,
            horizon=horizon,
            generator=generator,
        )

    def outer_steps(self) -> Iterator[dict[str, Tensor]]:
        """One inner iteration of the warm-up; none if no more steps will be collected."""
        schedule = self.schedule
        if schedule.real_steps >= self.config.total_env_steps:
            return
        assert schedule.task is not None
        training = VirtualTraining(
            Settings.of(self.config),
            self.policy.dynamics,
            self.value,
            self.store,
            model_adam=torch_optimiser(self.model_optim),
            value_adam=torch_optimiser(self.value_optim),
            generator=self.generator,
            noise=self.policy.generator,
        )
        training.products = self.large_products
        self.simulations.set_task(self.tasks[schedule.task])
        self.simulations.seed = part_seed(stream_seed(self.context.seed, "starts"), schedule.inner_total)
        found = training.inner_iteration(self.policy.actor, self.simulations)
        schedule.inner_iteration(float(found["first_virtual_return"]), float(found["virtual_return"]))
        yield found

    def generators(self) -> Mapping[str, torch.Generator]:
        """See `MetaAlgorithm.generators`."""
        return {**super().generators(), "exploration": self.exploration.generator}

    def trial_agent(self, store: TransitionStore) -> SLBOAgent:
        """The trained agent for `metarl_envs.evaluation`.

        Args:
            store: the real steps of training.
        """
        config, dynamics, value = self.config, self.policy.dynamics, self.value
        if config.start == "scratch":
            untrained = type(self)(config, self.context)
            dynamics, value = untrained.policy.dynamics, untrained.value
            store = self.replay_buffer(config, self.context)
        elif config.dynamics == "initial":
            initial = type(self)(config, self.context).policy.dynamics
            for mine, other in zip(dynamics.parameters(), initial.parameters(), strict=True):
                mine.data.copy_(other.data)
        return SLBOAgent(Trained(config, self.context.family, dynamics, value, store), self.simulate)

    def create_trainer(self, params: OnPolicyTrainerParams) -> ModelBasedTrainer:
        """Tianshou's on-policy trainer, with iterations that have no real steps."""
        return ModelBasedTrainer(self, params)

    @classmethod
    def trainer_params(
        cls, config: SLBOConfig, collector: SLBOCollector, shared: Mapping[str, Any]
    ) -> OnPolicyTrainerParams:
        """Parameters with which one epoch of Tianshou's trainer is one iteration."""
        return OnPolicyTrainerParams(**shared, collection_step_num_env_steps=1, batch_size=None)

    def _update_with_batch(self, batch: Any, batch_size: int | None, repeat: int) -> NoReturn:
        raise NotImplementedError("there is no replay buffer to update from; see outer_steps")

    # -- iterations are not divided -------------------------------------------------------------------

    def shares(self, config: SLBOConfig, horizon: int, count: int) -> list[range]:
        """See `MetaAlgorithm.shares`; there is work for one process only."""
        raise ConfigError(ALONE)

    @classmethod
    def simulations_of(cls, config: SLBOConfig, share: range) -> int:
        """See `MetaAlgorithm.simulations_of`."""
        raise ConfigError(ALONE)

    def worker(
        self, config: SLBOConfig, env: GymVectorEnvAdapter, *, horizon: int, share: range, products: str
    ) -> NoReturn:
        """See `MetaAlgorithm.worker`."""
        raise ConfigError(ALONE)

    def distribute(self, collector: SLBOCollector, pool: Pool, shares: Sequence[range]) -> NoReturn:
        """See `MetaAlgorithm.distribute`."""
        raise ConfigError(ALONE)
