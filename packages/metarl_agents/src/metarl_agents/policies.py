"""Actors and the policy interface that collectors and evaluation drive."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import Policy
from tianshou.data import Batch
from torch import Tensor, nn

from metarl_agents.distributions import split_output, tanh_gaussian_act, tanh_gaussian_draw
from metarl_agents.networks import mlp
from metarl_agents.seeding import torch_stream
from metarl_agents.task_buffer import IntArray, TaskReplayBuffer

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial


class TanhGaussianActor(nn.Module):
    """Perceptron with a tanh-squashed diagonal Gaussian over actions in (-1, 1).

    The last layer's weights start at U(±1e-3), half of them for the mean and half for the log
    standard deviation (PEARL's released code; `released` as in `mlp`).
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        actions: int,
        *,
        generator: torch.Generator,
        released: bool = False,
    ) -> None:
        super().__init__()
        self.network = mlp(
            inputs, hidden, 2 * actions, generator=generator, last_bound=1e-3, released=released
        )

    def forward(self, inputs_BI: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before the tanh, both (B, A)."""
        return split_output(self.network(inputs_BI))

    def act(self, inputs_BI: Tensor, generator: torch.Generator, *, deterministic: bool) -> Tensor:
        """Actions (B, A): a sample, or tanh of the mean."""
        mean_BA, log_std_BA = self(inputs_BI)
        return tanh_gaussian_act(mean_BA, log_std_BA, generator, deterministic=deterministic)

    def rsample(self, inputs_BI: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reparameterised action (B, A), its log-density (B,), mean and log std (B, A)."""
        mean_BA, log_std_BA = self(inputs_BI)
        return tanh_gaussian_draw(mean_BA, log_std_BA, generator)


class BatchPolicy(Policy):  # type: ignore[misc]
    """A policy that acts for a set of rollouts at once, one row per rollout.

    Args:
        action_space: box of actions in [-1, 1].
        observation_space: box of observations.
        generator: source of the policy's random choices, on the device it computes on.
    """

    def __init__(self, *, action_space: Box, observation_space: Box, generator: torch.Generator) -> None:
        super().__init__(
            action_space=action_space,
            observation_space=observation_space,
            action_scaling=False,
            action_bound_method=None,
        )
        self.generator = generator

    @abstractmethod
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A) for the rollouts `rows`, or for all of them."""

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """The array as float32 on the device the policy computes on."""
        return torch.as_tensor(array, dtype=torch.float32).to(self.generator.device)

    def act_on_arrays(self, observations_RO: NDArray[Any], *, deterministic: bool) -> NDArray[np.float32]:
        """Actions (R, A) of all rollouts, from and to arrays, as evaluation has them."""
        actions_RA = self.act(self.tensor(observations_RO), None, deterministic=deterministic)
        result: NDArray[np.float32] = actions_RA.cpu().numpy()
        return result

    def observe(self, observations_RO: Tensor, actions_RA: Tensor, rewards_R: Tensor) -> None:
        """Takes in a step of all rollouts that goes on; recurrent policies remember it.

        Rows of rollouts that are over hold anything.

        Args:
            observations_RO: what the actions were chosen from.
            actions_RA: the actions taken.
            rewards_R: the environment's rewards.
        """

    def uniform_actions(self, count: int) -> Tensor:
        """Actions (count, A) drawn uniformly from [-1, 1]."""
        shape = (count, self.action_space.shape[0])
        return torch.rand(shape, generator=self.generator, device=self.generator.device) * 2 - 1

    def with_noise(self, actions_RA: Tensor, noise: float) -> Tensor:
        """The actions plus N(0, noise^2), clipped to [-1, 1]."""
        eps_RA = torch.randn(actions_RA.shape, generator=self.generator, device=actions_RA.device)
        return (actions_RA + noise * eps_RA).clamp_(-1.0, 1.0)

    @torch.no_grad()
    def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Batch:
        """Tianshou's interface; rows are found by `batch.info.env_id` where there is one.

        Within a training step actions are sampled, elsewhere they are deterministic.
        """
        info = batch.info
        rows = info.env_id if hasattr(info, "env_id") else None
        observations = torch.as_tensor(np.asarray(batch.obs, np.float32), device=self.generator.device)
        deterministic = not self.is_within_training_step
        return Batch(act=self.act(observations, rows, deterministic=deterministic), state=state)


class MetaPolicy(BatchPolicy):
    """A policy that acts on what a replay buffer knows of tasks.

    Rollouts are started by `begin_rollouts`, which settles what the policy knows of each one's
    task, and then advance together through `act`.
    """

    @abstractmethod
    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Prepares R rollouts.

        Args:
            tasks_R: task index of each rollout.
            conditioning: what the policy is to know of the task; each policy names its own.
            buffer: where it finds what was gathered on the tasks.
        """


class ExploringPolicy(MetaPolicy):
    """A policy with the conditionings "random", uniform actions, and "exploring", its own way to."""

    #: What messages call the policy.
    name: ClassVar[str]

    def __init__(self, *, action_space: Box, observation_space: Box, generator: torch.Generator) -> None:
        super().__init__(action_space=action_space, observation_space=observation_space, generator=generator)
        self.at_random = False

    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Notes whether actions are to be uniformly random.

        Raises:
            ValueError: for a conditioning this policy does not have.
        """
        if conditioning not in ("random", "exploring"):
            raise ValueError(f"{self.name} acts at 'random' or 'exploring', not {conditioning!r}")
        self.at_random = conditioning == "random"


class MemorylessAgent:
    """A policy of the observation alone, as evaluation drives it; it learns nothing within a trial.

    Args:
        policy: what acts.
        observe_task: whether its observations contain the task.
    """

    def __init__(self, policy: BatchPolicy, *, observe_task: bool = False) -> None:
        self.policy = policy
        self.observe_task = observe_task

    def begin_trial(self, trial: "Trial") -> None:
        """Seeds the policy for the trial."""
        self.deterministic = trial.deterministic
        self.policy.generator = torch_stream(trial.seed, "trial", self.policy.generator.device)

    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O)."""
        return self.policy.act_on_arrays(observations, deterministic=self.deterministic)

    def observe(self, transition: "Transition") -> None:
        """Nothing to learn."""

    def end_episode(self) -> None:
        """Nothing to update."""
