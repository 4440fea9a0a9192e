"""What agents share that infer the task from the steps of the running trial, off-policy.

A trial is a number of consecutive episodes of a task. The policy keeps a recurrent state along it; at the
beginning of an episode, the state is computed from the steps of the trial, which are the context view of
the buffer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl_agents.common.context import Context
from metarl_agents.common.seeding import torch_stream
from metarl_agents.priors.config import LearnerConfig
from metarl_agents.priors.learner import LOG_MU, LearnerPolicy, TPolicy
from metarl_agents.priors.value_gradient import LOSSES, ValueGradientAlgorithm
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.collector import Schedule, Stage
from metarl_agents.replay.trials import TRIAL_STEP, TrialRows, running_trials

if TYPE_CHECKING:
    from metarl_envs.evaluation import Trial


@dataclass(frozen=True)
class InferenceConfig(LearnerConfig):
    """Settings of agents that infer the task from the running trial.

    Attributes:
        steps_per_task: minimum number of steps of a trial; its last episode is completed.
        trace_decay: lambda of Retrace; 0 gives one-step targets.
        entropy_cost: weight of the entropy of the policy in its loss.
        memory_width: size of the recurrent state.
    """

    evaluation_protocols: tuple[str, ...] = ("iwpa",)
    steps_per_task: int = 400
    trace_decay: float = 1.0
    entropy_cost: float = 0.0
    memory_width: int = 64

    may_be_zero: ClassVar[tuple[str, ...]] = (*LearnerConfig.may_be_zero, "trace_decay", "entropy_cost")
    fractions: ClassVar[tuple[str, ...]] = (*LearnerConfig.fractions, "trace_decay")


class InferencePolicy(LearnerPolicy):
    """A policy that infers the task from the running trial. Its one conditioning is "trial".

    Args:
        networks: all networks of the agent.
        action_space: box of actions.
        observation_space: box of observations.
        generator: random generator of the policy.
    """

    column_names = (LOG_MU, TRIAL_STEP)
    #: Number (R,) of steps of each rollout's trial so far.
    taken: Tensor

    def __init__(
        self, *, networks: nn.Module, action_space: Box, observation_space: Box, generator: torch.Generator
    ) -> None:
        super().__init__(action_space=action_space, observation_space=observation_space, generator=generator)
        self.networks = networks

    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Computes the state of each rollout from the steps of its trial so far.

        Raises:
            ValueError: for a conditioning this policy does not have.
        """
        if conditioning != "trial":
            raise ValueError(f"the conditioning of this policy must be 'trial', not {conditioning!r}")
        trials = running_trials(buffer, tasks_R)
        self.taken = self.tensor(trials.length)
        self.begin_episodes(buffer, trials)

    @abstractmethod
    def begin_episodes(self, buffer: TaskReplayBuffer, trials: TrialRows) -> None:
        """Prepares an episode after each of these running trials."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What the actions of an episode depend on, with a leading axis for rollouts."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` returned."""

    @abstractmethod
    def choose(self, obs_RO: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        """Actions (R, A) and the logarithms (R,) of the densities with which they were drawn."""

    def prepared(self) -> dict[str, Any]:
        """See `MetaPolicy.prepared`."""
        return {"taken": self.taken, **self.state()}

    def prepare(self, decided: Mapping[str, Any], count: int) -> None:
        """See `MetaPolicy.prepare`."""
        device = self.generator.device
        found = {name: value.to(device) for name, value in decided.items()}
        self.taken = found.pop("taken")
        self.load_state(found)

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A) of all rollouts, with their columns.

        Raises:
            ValueError: for some of the rollouts only, because the state is that of all.
        """
        if rows is not None:
            raise ValueError("this policy acts for all of its rollouts together; rows must be None")
        actions_RA, log_mu_R = self.choose(observations_RO, deterministic)
        self.columns = {LOG_MU: log_mu_R, TRIAL_STEP: self.taken}
        self.taken = self.taken + 1.0
        return actions_RA


class InferenceAlgorithm(ValueGradientAlgorithm[TPolicy]):
    """SVG(0) with Retrace for a policy that infers the task from the running trial."""

    loss_names: ClassVar[tuple[str, ...]] = LOSSES
    stored_columns: ClassVar[tuple[str, ...]] = (LOG_MU, TRIAL_STEP)
    #: The acting policy, and its networks, which are built from configuration and context.
    policy_class: ClassVar[Any]
    networks_class: ClassVar[Any]

    @staticmethod
    def schedule(config: Any) -> Schedule:
        """A trial of every task, then of the visited ones."""

        def trial(steps: int) -> Stage:
            return Stage(steps, "trial", to_context=True, one_at_a_time=True)

        return Schedule(initial=(trial(config.initial_steps),), iteration=(trial(config.steps_per_task),))

    @classmethod
    def from_config(cls, config: Any, context: Context) -> Self:
        """Builds the networks with initial weights from the run's seed, on the device."""
        policy = cls.policy_class(
            networks=cls.networks_class(config, context).to(context.device),
            action_space=context.action_space,
            observation_space=context.observation_space,
            generator=context.stream("acting"),
        )
        return cls(policy=policy, config=config, generator=context.stream("update"))


class InferenceAgent:
    """Base class of their evaluation agents: the state of each task's trial runs on through its episodes.

    Actions are deterministic in scored episodes if the protocol says so, and otherwise sampled.

    Args:
        policy: the trained policy.
    """

    observe_task = False

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def begin_trial(self, trial: Trial) -> None:
        """Seeds the policy for the trial."""
        self.trial = trial
        self.finished_episodes = 0
        self.policy.generator = torch_stream(trial.seed, "trial", self.policy.generator.device)
        self.policy.taken = self.policy.tensor(np.zeros(trial.num_tasks))

    @property
    def deterministic(self) -> bool:
        """Whether actions of the current episode are deterministic."""
        return self.trial.deterministic and self.finished_episodes >= self.trial.adaptation_episodes

    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O)."""
        actions: NDArray[np.float32] = self.policy.act_on_arrays(
            observations, deterministic=self.deterministic
        )
        return actions

    def end_episode(self) -> None:
        """Counts the episode."""
        self.finished_episodes += 1
