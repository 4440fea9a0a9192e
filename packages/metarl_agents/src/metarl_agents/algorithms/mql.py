"""MQL: Meta-Q-Learning, TD3-context with fine-tuning on a new task with re-weighted old data.

Fakoor, Chaudhari, Soatto, Smola 2020, "Meta-Q-Learning" (arXiv:1910.00125). Meta-training is TD3-context;
this file contains the adaptation, section 3.2 and Algorithm 2. Where the paper and the released code differ,
a key of the configuration selects one of them:

- lambda = 1 - ESS (the paper, `proximal = "ess"`) or constant (the released commands);
- the proximal term in the updates on new data: in the paper's eq. 18, absent from the code
  (`proximal_on_new`);
- both write the term as lambda times the squared distance, the paper with a factor of one half; here,
  the form of the code is used.

Decisions of this implementation: the number of updates is per episode of adaptation, as in the paper's
table, and all are made after the last of these episodes. As in the code, the classifier is fitted before any
update, the features of beta change with the actor's GRU, and ESS is computed from the weights of each batch.
The updates on new data come before the first batch and use the ESS of the old data of the classifier.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import Algorithm
from torch import Tensor, nn

from metarl_agents.algorithms.td3_context import (
    ContextBatch,
    TD3Context,
    TD3ContextAgent,
    TD3ContextConfig,
    TD3ContextPolicy,
)
from metarl_agents.common.seeding import numpy_stream, torch_stream
from metarl_agents.networks.optimisers import adam
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.propensity import Propensity, effective_sample_size
from metarl_agents.replay.proximal import Anchor

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial


@dataclass(frozen=True)
class MQLConfig(TD3ContextConfig):
    """Configuration of MQL; the defaults are those of the released code for MetaHalfCheetah-Vel.

    Attributes:
        adaptation: "full", "new" for updates on new data only (the paper's beta = 0), or "none",
            which is TD3-context.
        new_updates: updates on new data per episode of adaptation.
        replay_updates: updates on old data per episode of adaptation.
        replay_batch: transitions of old data per update.
        adaptation_learning_rate: Adam's step size in adaptation, with newly initialised moments.
        propensity_c: inverse of the weight of the classifier's penalty.
        propensity_observations: whether the classifier receives the observation in addition to the context.
        snapshot_steps: number of latest transitions of each training task that represent old data
            when the classifier is fitted.
        weight_clip: upper bound of the logarithm of the weights.
        weight_floor: weights below this value are set to 0.
        proximal: "ess" for lambda = 1 - ESS, or "constant".
        proximal_coefficient: lambda if it is constant or the ESS cannot be used.
        proximal_on_new: whether updates on new data include the proximal term.
    """

    adaptation: str = "full"
    new_updates: int = 10
    replay_updates: int = 100
    replay_batch: int = 1280
    adaptation_learning_rate: float = 1e-3
    propensity_c: float = 0.1
    propensity_observations: bool = False
    snapshot_steps: int = 2000
    weight_clip: float = 1.0
    weight_floor: float = 0.1
    proximal: str = "ess"
    proximal_coefficient: float = 0.1
    proximal_on_new: bool = True

    evaluation_keys: ClassVar[tuple[str, ...]] = (
        "adaptation", "new_updates", "replay_updates", "replay_batch", "adaptation_learning_rate",
        "propensity_c", "propensity_observations", "snapshot_steps", "weight_clip", "weight_floor",
        "proximal", "proximal_coefficient", "proximal_on_new", "unbounded_evaluation",
    )  # fmt: skip
    may_be_zero: ClassVar[tuple[str, ...]] = (
        *TD3ContextConfig.may_be_zero, "propensity_observations", "weight_clip", "weight_floor",
        "proximal_coefficient", "proximal_on_new",
    )  # fmt: skip
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **TD3ContextConfig.choices,
        "adaptation": ("full", "new", "none"),
        "proximal": ("ess", "constant"),
    }


@dataclass(frozen=True)
class AdaptationRecord:
    """Diagnostics of the adaptation to one task; means are over the updates on old data.

    Attributes:
        new_steps: transitions of the new task.
        weight: mean beta.
        weight_used: mean fraction of transitions with beta above the floor.
        ess: mean normalised effective sample size, 0 if all weights are 0.
        proximal: mean lambda.
        distance: squared distance of the actor's final parameters from the meta-trained ones.
    """

    new_steps: int
    weight: float
    weight_used: float
    ess: float
    proximal: float
    distance: float


class MQL(TD3Context):
    """TD3-context with adaptation to a new task; see the module for the source."""

    config_class: ClassVar[type[MQLConfig]] = MQLConfig
    needs_replay: ClassVar[bool] = True
    config: MQLConfig

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Context that restores networks, counters and generators at its end, bit for bit.

        The optimisers of meta-training need not be saved, because adaptation uses separate ones.
        """
        weights = {name: tensor.clone() for name, tensor in self.network_state().items()}
        kept = {name: getattr(self, name) for name in ("updates", "policy_value", "generator")}
        try:
            yield
        finally:
            for name, tensor in self.network_state().items():
                tensor.copy_(weights[name])
            for parameter in self.parameters():
                parameter.grad = None
            for name, value in kept.items():
                setattr(self, name, value)

    def features(self, data: ContextBatch) -> Tensor:
        """Features (B, F) of the classifier: the actor's context, and the observation if configured."""
        with torch.no_grad():
            context_BC: Tensor = self.policy.actor.gru(*data.history.before)
            if not self.config.propensity_observations:
                return context_BC
            return torch.cat((data.transitions.obs, context_BC), -1)

    def weights(self, propensity: Propensity, features_BF: Tensor) -> Tensor:
        """Beta (B,) of samples with these features."""
        config = self.config
        return propensity.odds(features_BF, clip=config.weight_clip, floor=config.weight_floor)

    def proximal_weight(self, ess: float) -> float:
        """lambda: 1 - ESS, or the constant if it is configured, or if 1 - ESS is undefined or almost 0."""
        weight = 1.0 - ess
        useless = not np.isfinite(weight) or weight <= 1e-7
        constant = self.config.proximal == "constant"
        return self.config.proximal_coefficient if constant or useless else weight

    def fit_propensity(self, new: TaskReplayBuffer, replay: TaskReplayBuffer) -> tuple[Propensity, float]:
        """The classifier of new and old data, and the ESS of the old data used to fit it.

        It uses all n new transitions, and n // K + 2 of the latest ones of each of the K training tasks.
        """
        tasks_T: IntArray = np.flatnonzero(replay.head > replay.tail)
        each = len(new) // len(tasks_T) + 2
        rows_TB = replay.sample_recent_rows(tasks_T, each, self.config.snapshot_steps)
        new_NF = self.features(self.batch(new, new.sample_indices(0)))
        old_MF = self.features(self.batch(replay, rows_TB.reshape(-1)))
        propensity = Propensity.fit(new_NF.cpu().numpy(), old_MF.cpu().numpy(), self.config.propensity_c)
        return propensity, float(effective_sample_size(self.weights(propensity, old_MF)))

    def adapt(self, new: TaskReplayBuffer, replay: TaskReplayBuffer, episodes: int) -> AdaptationRecord:
        """Adapts all networks from the meta-trained parameters to the new task, Algorithm 2.

        Args:
            new: the new task's episodes.
            replay: the buffer of meta-training.
            episodes: number of adaptation episodes, which determines the number of updates.
        """
        config, networks, actor = self.config, self.networks, self.policy.actor
        critic_optim = self._fresh_optimiser(networks.critic)
        actor_optim = self._fresh_optimiser(actor)
        critic_anchor, actor_anchor = Anchor(networks.critic), Anchor(actor)
        propensity, ess = self.fit_propensity(new, replay)
        self.updates = 0

        def step(data: ContextBatch, weights_B: Tensor | None, proximal: float) -> None:
            def penalty(anchor: Anchor) -> Any:
                return (lambda: proximal * anchor.distance()) if proximal else None

            self.step(
                data,
                critic_optim,
                actor_optim,
                weights_B,
                critic_penalty=penalty(critic_anchor),
                actor_penalty=penalty(actor_anchor),
            )

        # Eq. 18: the new data, in batches as large as they are.
        proximal = self.proximal_weight(ess) if config.proximal_on_new else 0.0
        for _ in range(config.new_updates * episodes):
            step(self.batch(new, new.sample_indices(len(new))), None, proximal)
        # Eq. 19: old data weighted by beta.
        self.updates = 0
        rows: list[tuple[float, float, float, float]] = []
        for _ in range(config.replay_updates * episodes if config.adaptation == "full" else 0):
            data = self.draw(replay, config.replay_batch)
            weights_B = self.weights(propensity, self.features(data))
            ess = float(effective_sample_size(weights_B))
            proximal = self.proximal_weight(ess)
            step(data, weights_B, proximal)
            used = float((weights_B > 0).float().mean())
            rows.append((float(weights_B.mean()), used, float(np.nan_to_num(ess)), proximal))
        means = np.mean(rows, 0).tolist() if rows else [0.0, 0.0, float(np.nan_to_num(ess)), proximal]
        weight, used, mean_ess, mean_proximal = means
        return AdaptationRecord(
            new_steps=len(new),
            weight=weight,
            weight_used=used,
            ess=mean_ess,
            proximal=mean_proximal,
            distance=float(actor_anchor.distance().detach()),
        )

    def _fresh_optimiser(self, module: nn.Module) -> Algorithm.Optimizer:
        optimiser, _ = adam(self.config.adaptation_learning_rate).create_instances(module)
        return Algorithm.Optimizer(optimiser, module)

    def trial_agent(self, replay: TaskReplayBuffer | None = None) -> "MQLAgent":
        """The trained agent for `metarl_envs.evaluation`.

        Args:
            replay: the buffer of meta-training, used in adaptation.
        """
        return MQLAgent(self, replay)


class MQLAgent:
    """MQL adapting to new tasks: each task of a trial has a separate actor.

    The adaptation episodes are deterministic and use the meta-trained actor.
    """

    observe_task = False

    def __init__(self, algorithm: MQL, replay: TaskReplayBuffer | None) -> None:
        if replay is None and algorithm.config.adaptation != "none":
            raise ValueError("MQL needs the replay buffer of its meta-training for adaptation")
        self.algorithm = algorithm
        self.replay = replay
        self.base = TD3ContextAgent(algorithm.policy)
        self.records: list[AdaptationRecord] = []

    def begin_trial(self, trial: "Trial") -> None:
        """Starts a new trial."""
        self.trial = trial
        self.adapted: list[TD3ContextAgent] = []
        self.episodes: list[list[Transition]] = [[]]
        self.base.begin_trial(trial)

    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O)."""
        if not self.adapted:
            return self.base.act(observations)
        rows = [agent.act(observations[task : task + 1]) for task, agent in enumerate(self.adapted)]
        return np.concatenate(rows)

    def observe(self, transition: "Transition") -> None:
        """Adds the step to the context, and stores it if adaptation follows."""
        if not self.adapted:
            self.base.observe(transition)
            if self.algorithm.config.adaptation != "none":
                self.episodes[-1].append(transition)
            return
        for task, agent in enumerate(self.adapted):
            agent.observe(
                dataclasses.replace(
                    transition,
                    observation=transition.observation[task : task + 1],
                    action=transition.action[task : task + 1],
                    reward=transition.reward[task : task + 1],
                )
            )

    def end_episode(self) -> None:
        """After the last adaptation episode, adapts to every task, one after another."""
        for agent in (self.base, *self.adapted):
            agent.end_episode()
        wanted = self.trial.adaptation_episodes
        if self.base.finished_episodes == wanted and self.algorithm.config.adaptation != "none":
            self.adapted = [self._adapt(task) for task in range(self.trial.num_tasks)]
            self.episodes = [[]]
        else:
            self.episodes.append([])

    def diagnostics(self) -> list[dict[str, float]]:
        """Diagnostics of adaptation, one entry per trial and task."""
        return [dataclasses.asdict(record) for record in self.records]

    def _adapt(self, task: int) -> TD3ContextAgent:
        algorithm, seed = self.algorithm, self.trial.seed
        assert self.replay is not None
        new = self._buffer(task)
        with algorithm.rolled_back(), self.replay.drawing_from(numpy_stream(seed, f"replay {task}")):
            algorithm.generator = torch_stream(seed, f"adaptation {task}", algorithm.device)
            self.records.append(algorithm.adapt(new, self.replay, self.trial.adaptation_episodes))
            actor = copy.deepcopy(algorithm.policy.actor)
        policy = TD3ContextPolicy(
            actor=actor,
            config=algorithm.config,
            action_space=algorithm.policy.action_space,
            observation_space=algorithm.policy.observation_space,
            generator=algorithm.policy.generator,
        )
        agent = TD3ContextAgent(policy)
        one = numpy_stream(seed, f"acting {task}").integers(2**32)
        agent.begin_trial(dataclasses.replace(self.trial, num_tasks=1, adaptation_episodes=0, seed=int(one)))
        return agent

    def _buffer(self, task: int) -> TaskReplayBuffer:
        """The task's episodes in a buffer of their own."""
        episodes = [[step for step in steps if step.active[task]] for steps in self.episodes]
        lengths = np.array([len(steps) for steps in episodes if steps], np.int64)
        first = episodes[0][0]
        key = self.algorithm.training_reward
        # Where meta-training had another reward, adaptation still has the environment's only.
        info_keys = () if key == "reward" else (key,)
        buffer = TaskReplayBuffer(
            1,
            int(lengths.sum()),
            first.observation.shape[1],
            first.action.shape[1],
            generator=numpy_stream(self.trial.seed, f"new {task}"),
            info_keys=info_keys,
        )
        columns = {
            "obs": "observation", "act": "action", "rew": "reward", "obs_next": "next_observation",
            "terminated": "terminated", "truncated": "truncated", **dict.fromkeys(info_keys, "reward"),
        }  # fmt: skip
        padded: dict[str, NDArray[Any]] = {}
        for name, attribute in columns.items():
            example = getattr(first, attribute)[task]
            padded[name] = np.zeros((len(lengths), lengths.max(), *example.shape), example.dtype)
            for number, steps in enumerate(steps for steps in episodes if steps):
                padded[name][number, : len(steps)] = [getattr(step, attribute)[task] for step in steps]
        buffer.add_episodes(np.zeros(len(lengths), np.int64), lengths, padded, to_context=False)
        return buffer
