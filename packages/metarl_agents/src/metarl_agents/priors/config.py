"""Settings that the agents share that learn values from chunks of steps, and those of multi-task agents."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from metarl_agents.common.config import ConfigError, ReplayConfig


@dataclass(frozen=True)
class LearnerConfig(ReplayConfig):
    """Settings of agents that learn from chunks; the defaults are those of Galashov et al. 2020, where given.

    Attributes:
        hidden: widths of the hidden layers of the policy and of the behaviour prior, if there is one.
        batch_size: chunks per gradient step.
        critic_hidden: widths of the hidden layers of the critic; the last one is the number of features.
        chunk_length: steps of a chunk of an episode.
        learner_use: number of times that gradient steps use a collected step, on average; it sets the
            number of gradient steps of an iteration.
        steps_per_task: minimum number of steps collected on each visited task; the last episode is
            completed, so 1 means one episode.
        target_period: gradient steps between copies of the networks to their target networks.
        action_samples: actions K per state, from which expected values are estimated.
        max_gradient_norm: larger gradients of a network are scaled down to this norm.
        min_std: lower bound of the standard deviations of actions.
        initial_std: standard deviation of actions before training.
        max_std: upper bound of the standard deviations of actions.
    """

    hidden: tuple[int, ...] = (200, 100)
    learning_rate: float = 5e-4
    initial_steps: int = 1
    tasks_per_iteration: int = 64
    batch_size: int = 512
    num_simulations: int = 64
    capacity_per_task: int = 10_000
    critic_hidden: tuple[int, ...] = (400, 300)
    chunk_length: int = 10
    learner_use: float = 16.0
    steps_per_task: int = 1
    target_period: int = 100
    action_samples: int = 10
    max_gradient_norm: float = 40.0
    min_std: float = 0.3
    initial_std: float = 0.8
    max_std: float = 1.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.min_std < self.initial_std < self.max_std:
            raise ConfigError(
                "min_std, initial_std and max_std must increase, not "
                f"{self.min_std}, {self.initial_std}, {self.max_std}"
            )
        for name in ("hidden", "critic_hidden"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must have at least one layer")

    @property
    def std(self) -> tuple[float, float, float]:
        """Lowest, initial and highest standard deviation of actions."""
        return self.min_std, self.initial_std, self.max_std


@dataclass(frozen=True)
class MultiTaskConfig(LearnerConfig):
    """Settings of the multi-task agents.

    Attributes:
        shared_q: whether the critic is a product of features of state and action, which all tasks
            share, and a weight vector of the task.
        descriptor: names of the task parameters that policy and critic receive, scaled to [-1, 1];
            none: they receive the task's one-hot id.
        train_tasks: indices of the training tasks to train on; none: all.
        act: what acts in an evaluation: "policy" (training tasks only), or "prior", the behaviour prior,
            which can act on any task.
    """

    evaluation_split: str = "train"
    shared_q: bool = False
    descriptor: tuple[str, ...] = ()
    train_tasks: tuple[int, ...] = ()
    act: str = "policy"

    may_be_zero: ClassVar[tuple[str, ...]] = (*ReplayConfig.may_be_zero, "shared_q", "train_tasks")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {**ReplayConfig.choices, "act": ("policy", "prior")}
    evaluation_keys: ClassVar[tuple[str, ...]] = ("act",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.train_tasks)) < len(self.train_tasks):
            raise ConfigError(f"train_tasks must be different tasks, not {self.train_tasks}")


@dataclass(frozen=True)
class RetraceConfig(MultiTaskConfig):
    """Settings of the agents that learn their critic by Retrace.

    Attributes:
        trace_decay: lambda of Retrace; 0 gives one-step targets.
    """

    trace_decay: float = 1.0

    may_be_zero: ClassVar[tuple[str, ...]] = (*MultiTaskConfig.may_be_zero, "trace_decay")
    fractions: ClassVar[tuple[str, ...]] = (*MultiTaskConfig.fractions, "trace_decay")
