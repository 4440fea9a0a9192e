"""Multi-task SLBO adapting to new tasks: a warm-up in the learned dynamics, then stages of real steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import metarl_envs
from metarl_agents.common.seeding import stream_seed
from metarl_agents.slbo.dynamics import Dynamics
from metarl_agents.slbo.learner import Learner, Trained
from metarl_agents.slbo.rollouts import Simulations
from metarl_agents.slbo.transitions import COLUMNS
from metarl_agents.slbo.virtual_env import VirtualVectorEnv

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial


class Acting(NamedTuple):
    """What the policies of all tasks need in an episode.

    Attributes:
        mean: means of the states (T, 1, O).
        scale: what centred states are divided by (T, 1, O).
        own: the parameters of the policies, with a leading task axis.
        noise: what is added to the mean actions (H, T, A).
    """

    mean: Tensor
    scale: Tensor
    own: dict[str, Tensor]
    noise: Tensor


class SLBOAgent:
    """Multi-task SLBO as `metarl_envs.evaluation` drives it.

    Before its first episode, each task trains a policy in the learned dynamics. After every
    `episodes_per_update` adaptation episodes, which have exploration noise, it trains further with its own
    steps among the data. Tasks do not see each other's data, and what the run has learned stays as it is.

    Args:
        trained: what the run has learned.
        simulate: makes the simulations in which policies are trained.

    Attributes:
        products: what computes large matrix products.
        say: receives messages about the progress of warm-ups.
    """

    #: The reward function is that of the task.
    observe_task = True
    scores_between = True

    def __init__(self, trained: Trained, simulate: Callable[[Dynamics], Simulations]) -> None:
        self.trained, self.simulate = trained, simulate
        self.simulations: Simulations | None = None
        self.products = "default"
        self.say: Callable[[str], None] = lambda text: None
        self.records: list[dict[str, float]] = []

    def begin_trial(self, trial: Trial) -> None:
        """Forgets every earlier trial."""
        self.trial = trial
        self.learners: list[Learner] = []
        self.episode = self.stage = 0
        self.steps: list[tuple[Tensor, ...]] = []
        self.batch: list[list[tuple[Tensor, ...]]] = []
        self.acting: Acting | None = None

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O + P)."""
        size = self.trained.observations
        if not self.learners:
            self._begin([tuple(map(float, row)) for row in observations[:, size:]])
            self._warm_up()
        if self.acting is None:
            self.acting = self._begin_episode()
        acting = self.acting
        obs_TO = torch.from_numpy(np.ascontiguousarray(observations[:, :size])).to(self.trained.device)
        with torch.no_grad():
            input_T1O = (obs_TO[:, None] - acting.mean) / acting.scale
            found = self.learners[0].policy(input_T1O, acting.own)
            self.actions = found.mean[:, 0] + acting.noise[len(self.steps)]
        result: NDArray[np.float32] = self.actions.cpu().numpy()
        return result

    def observe(self, transition: Transition) -> None:
        """Keeps the step if it is learned from, with the action as it was drawn."""
        size, device = self.trained.observations, self.trained.device

        def tensor(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.array(array)).to(device)

        ended_T = transition.terminated | transition.truncated
        self.steps.append(
            (
                tensor(transition.observation[:, :size]),
                self.actions,
                tensor(transition.next_observation[:, :size]),
                tensor(ended_T),
                tensor(transition.active),
            )
        )

    def end_episode(self) -> None:
        """After the last episode of a stage, every task learns from its steps."""
        adapting = self.trial.adapting(self.episode)
        self.episode += 1
        if adapting:
            self.batch.append(self.steps)
        self.steps, self.acting = [], None
        if len(self.batch) == self.trial.episodes_per_update:
            for number, learner in enumerate(self.learners):
                learner.take(*self._rows(number))
            self.batch = []
            self.stage += 1
            self._warm_up()

    def diagnostics(self) -> list[dict[str, float]]:
        """Virtual return and error of the dynamics in the last inner iteration of every warm-up, in order."""
        return self.records

    def _begin(self, parameters: Sequence[tuple[float, ...]]) -> None:
        """Begins the tasks with these parameters."""
        family, seed = self.trained.family, self.trial.seed
        self.learners = [
            Learner(
                self.trained,
                metarl_envs.Task(family, "test", -1, values),
                stream_seed(seed, f"task {number}"),
            )
            for number, values in enumerate(parameters)
        ]

    def _warm_up(self) -> None:
        for number, learner in enumerate(self.learners):
            if not learner.has_data:
                continue
            if self.simulations is None:
                self.simulations = self.simulate(learner.dynamics)
            simulations = self.simulations
            if isinstance(simulations, VirtualVectorEnv):
                simulations.dynamics = learner.dynamics
            simulations.set_task(learner.task)
            found = learner.warm_up(simulations, self.products)
            self.records.append(found)
            self.say(
                f"task {number + 1}/{len(self.learners)}, warm-up after stage {self.stage}: "
                f"virtual return {found['virtual_return']:.1f}"
            )

    def _begin_episode(self) -> Acting:
        trial, learners = self.trial, self.learners
        adapting = trial.adapting(self.episode)
        constants = [learner.dynamics.constants() for learner in learners]
        mean_T1O = torch.stack([c.mean for c in constants])[:, None]
        scale_T1O = torch.stack([c.scale for c in constants])[:, None]
        names = [name for name, _ in learners[0].policy.named_parameters()]
        own = {
            name: torch.stack([learner.policy.get_parameter(name).detach() for learner in learners])
            for name in names
        }
        shape = (trial.horizon, self.trained.actions)
        noise = []
        for learner in learners:
            drawn_HA = torch.randn(shape, generator=learner.generators["acting"], device=self.trained.device)
            drawn_HA *= learner.policy.log_std.detach().exp()
            if trial.deterministic and not adapting:
                drawn_HA.zero_()
            if adapting:
                drawn_HA += torch.cat([learner.exploration() for _ in range(trial.horizon)])
            noise.append(drawn_HA)
        return Acting(mean_T1O, scale_T1O, own, torch.stack(noise, 1))

    def _rows(self, task: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The steps of a task in the batch: observations, actions, next observations, ends."""
        columns = []
        for place in range(len(COLUMNS)):
            rows = [step[place][task] for episode in self.batch for step in episode if step[-1][task]]
            columns.append(torch.stack(rows))
        obs, act, next_obs, ended = columns
        return obs, act, next_obs, ended

    # -- continuing an interrupted evaluation --------------------------------------------------------

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The state between two episodes."""
        arrays = {
            f"{number}.{name}": array
            for number, learner in enumerate(self.learners)
            for name, array in learner.arrays().items()
        }
        for number, episode in enumerate(self.batch):
            columns = zip(*episode, strict=True)
            arrays |= {
                f"batch.{number}.{c}": torch.stack(rows).cpu().numpy() for c, rows in enumerate(columns)
            }
        values = {
            "tasks": [list(learner.task.parameters) for learner in self.learners],
            "inner_iterations": [learner.inner_iterations for learner in self.learners],
            "episode": self.episode,
            "stage": self.stage,
            "batch": len(self.batch),
            "records": self.records,
        }
        return arrays, values

    def set_state(self, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> None:
        """Restores what `get_state` returned, after `begin_trial`."""
        self._begin([tuple(row) for row in values["tasks"]])
        for number, learner in enumerate(self.learners):
            start = f"{number}."
            learner.load_arrays(
                {k.removeprefix(start): array for k, array in arrays.items() if k.startswith(start)}
            )
            learner.inner_iterations = values["inner_iterations"][number]
        device = self.trained.device
        self.batch = []
        for number in range(values["batch"]):
            columns = [
                torch.from_numpy(arrays[f"batch.{number}.{place}"].copy()).to(device)
                for place in range(len(COLUMNS) + 1)
            ]
            self.batch.append(list(zip(*columns, strict=True)))
        self.episode, self.stage, self.records = values["episode"], values["stage"], values["records"]
