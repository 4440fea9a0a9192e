"""RL2 off-policy: recurrent actor and critic, trained by SVG(0) with Retrace on whole trials.

The baseline of Galashov et al. 2020 (arXiv:2009.04875, section 5.2 and appendix A), after RL2 (Duan et al.
2016, arXiv:1611.02779): actor and critic each have layers with ELU and an LSTM, which receive the
observation and the last action, reward and end of an episode. Their states run on through the episodes of a
trial. Retrace's corrections end with each episode, whose last step bootstraps from the state that follows
it.

The paper gives neither the batch nor how long trials are handled. A trial that is longer than
`chunk_length` is trained in chunks of that many steps. The state at the beginning of a chunk is computed
from the beginning of the trial with the current weights, without a gradient; a stored state would be that
of older weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl_agents.common.context import Context
from metarl_agents.networks.functional import Gaussian
from metarl_agents.networks.layer_norm import ActionValue, GaussianPolicy
from metarl_agents.networks.lstm import LSTMState, Memory, selected
from metarl_agents.priors.inference import (
    InferenceAgent,
    InferenceAlgorithm,
    InferenceConfig,
    InferencePolicy,
)
from metarl_agents.priors.learner import LOG_MU
from metarl_agents.priors.samples import BEFORE
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.chunks import chunk_starts
from metarl_agents.replay.trials import TrialRows, draw_trials

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial


@dataclass(frozen=True)
class RL2OffPolicyConfig(InferenceConfig):
    """Configuration of off-policy RL2.

    Attributes:
        hidden: widths of the layers of the policy after its LSTM.
        critic_hidden: widths of the layers of the critic after its LSTM, which receive the action, too.
        chunk_length: most steps of a trial in a gradient step; see the module.
        batch_size: trials, or chunks of trials, per gradient step.
        memory_hidden: widths of the layers before each LSTM.
    """

    hidden: tuple[int, ...] = (100,)
    critic_hidden: tuple[int, ...] = (300,)
    chunk_length: int = 50
    batch_size: int = 16
    memory_hidden: tuple[int, ...] = (200, 100)

    may_be_zero: ClassVar[tuple[str, ...]] = (*InferenceConfig.may_be_zero, "memory_hidden")


class RecurrentNetworks(nn.Module):
    """Actor and critic, each behind a memory of its own, in one module for its target copy.

    Args:
        config: the configuration.
        context: spaces, and the seed of the initial weights.
    """

    def __init__(self, config: RL2OffPolicyConfig, context: Context) -> None:
        super().__init__()
        weights = context.weights()
        inputs, width = context.observations + context.actions + 2, config.memory_width

        def memory() -> Memory:
            return Memory(inputs, config.memory_hidden, width, generator=weights)

        self.critic_memory = memory()
        self.critic = ActionValue(
            width, 0, context.actions, config.critic_hidden, shared=False, described=False, generator=weights
        )
        self.actor_memory = memory()
        self.actor = GaussianPolicy(
            width, 0, config.hidden, context.actions, std=config.std, generator=weights
        )


class TrialBatch(NamedTuple):
    """B trials, or chunks of S steps of them.

    Attributes:
        inputs: what the memories receive before each step (B, S, I).
        following: what they receive after each step (B, S, I) in its episode.
        prefix: inputs (B, P, I) of the steps of the trials before the chunks.
        prefix_length: numbers (B,) of these steps.
        act: actions (B, S, A) as they were chosen, not clipped.
        reward: rewards (B, S) of the losses.
        discount: (B, S), 0 where the episode ended in a terminal state, else 1.
        log_mu: log-densities (B, S) of the actions under the policy that chose them; infinite in the first
            step of each episode, where this ends the corrections of the steps before it.
        valid: (B, S) bool, false beyond the end of the trial.
        task: (B, 0), because nothing says which task it is.
    """

    inputs: Tensor
    following: Tensor
    prefix: Tensor
    prefix_length: Tensor
    act: Tensor
    reward: Tensor
    discount: Tensor
    log_mu: Tensor
    valid: Tensor
    task: Tensor


class TrialView(NamedTuple):
    """What the target networks say about the states before and after each step; see `TargetView`.

    Attributes:
        policies: target policies in the states before, and after, each step (B, S).
        mapped: parts (B, S, H) of the target critic's first layer that do not depend on the action.
    """

    policies: tuple[Gaussian, Gaussian]
    mapped: tuple[Tensor, Tensor]

    def policy_at(self, states: slice) -> Gaussian:
        """See `TargetView.policy_at`."""
        return self.policies[states != BEFORE]

    def mapped_at(self, states: slice) -> Tensor:
        """See `TargetView.mapped_at`."""
        return self.mapped[states != BEFORE]


def previous_inputs(act: NDArray[Any], reward: NDArray[Any], ended: NDArray[Any]) -> NDArray[np.float32]:
    """The part (..., A + 2) of an input that is of the step before: action, reward, end of the episode."""
    return np.concatenate((act.clip(-1.0, 1.0), reward[..., None], ended[..., None]), -1, dtype=np.float32)


def trial_inputs(buffer: TaskReplayBuffer, trials: TrialRows) -> NDArray[np.float32]:
    """What the memories receive in each step of trials (B, L, I)."""
    rows, columns = trials.rows, buffer.act.shape[1] + 2
    before = np.zeros((*rows.shape, columns), np.float32)
    earlier = rows[:, :-1]
    begins = buffer.step_index[rows[:, 1:]] == 0
    before[:, 1:] = previous_inputs(buffer.act.take(earlier, 0), buffer.rew.take(earlier), begins)
    return np.concatenate((buffer.obs.take(rows, 0), before), -1)


class RL2OffPolicyPolicy(InferencePolicy):
    """A policy with a recurrent state."""

    def begin_trials(self, count: int) -> None:
        """Forgets everything, before the first step of `count` trials."""
        self.memory = self.networks.actor_memory.start(count)
        self.previous_RI = self.tensor(np.zeros((count, self.action_space.shape[0] + 2)))

    @torch.no_grad()
    def begin_episodes(self, buffer: TaskReplayBuffer, trials: TrialRows) -> None:
        """Computes the state of each rollout."""
        count = len(trials.length)
        self.begin_trials(count)
        if not trials.rows.shape[1]:
            return
        inputs_RLI = self.tensor(trial_inputs(buffer, trials))
        length_R = torch.as_tensor(trials.length).to(self.generator.device)
        self.memory = self.networks.actor_memory.state_after(inputs_RLI, length_R)
        last_R = trials.rows[:, -1]
        previous_RI = self.tensor(
            previous_inputs(buffer.act.take(last_R, 0), buffer.rew.take(last_R), np.ones(count))
        )
        self.previous_RI = torch.where((length_R > 0)[:, None], previous_RI, self.previous_RI)

    def state(self) -> dict[str, Tensor]:
        """See `InferencePolicy.state`."""
        return {"previous_RI": self.previous_RI, **self.memory._asdict()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `InferencePolicy.load_state`."""
        self.previous_RI = state["previous_RI"]
        self.memory = LSTMState(state["hidden"], state["cell"])

    def choose(self, obs_RO: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        """See `InferencePolicy.choose`."""
        self.memory = self.networks.actor_memory.step(torch.cat((obs_RO, self.previous_RI), -1), self.memory)
        return self.drawn(self.networks.actor(self.memory.hidden), deterministic)

    def observe(self, observations_RO: Tensor, actions_RA: Tensor, rewards_R: Tensor) -> None:
        """See `BatchPolicy.observe`."""
        ended_R1 = torch.zeros_like(rewards_R)[:, None]
        self.previous_RI = torch.cat((actions_RA.clamp(-1.0, 1.0), rewards_R[:, None], ended_R1), -1)


class RL2OffPolicyAgent(InferenceAgent):
    """Evaluation agent of off-policy RL2."""

    def begin_trial(self, trial: "Trial") -> None:
        """See `InferenceAgent.begin_trial`."""
        super().begin_trial(trial)
        self.policy.begin_trials(trial.num_tasks)

    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O)."""
        self.before = self.policy.memory
        return super().act(observations)

    def observe(self, transition: "Transition") -> None:
        """Keeps the new state, and the step, of the tasks whose episode goes on."""
        policy = self.policy
        active_T = torch.as_tensor(transition.active).to(policy.generator.device)
        policy.memory = selected(active_T, policy.memory, self.before)
        ended_T = np.zeros(len(transition.reward))
        step_TI = policy.tensor(previous_inputs(transition.action, transition.reward, ended_T))
        policy.previous_RI = torch.where(active_T[:, None], step_TI, policy.previous_RI)

    def end_episode(self) -> None:
        """See `InferenceAgent.end_episode`."""
        super().end_episode()
        self.policy.previous_RI = self.policy.previous_RI.clone()
        self.policy.previous_RI[:, -1] = 1.0


class RL2OffPolicy(InferenceAlgorithm[RL2OffPolicyPolicy]):
    """Off-policy RL2; see the module for the source."""

    config_class: ClassVar[type[RL2OffPolicyConfig]] = RL2OffPolicyConfig
    config: RL2OffPolicyConfig
    policy_class: ClassVar[type[RL2OffPolicyPolicy]] = RL2OffPolicyPolicy
    networks_class: ClassVar[type[RecurrentNetworks]] = RecurrentNetworks

    def __init__(
        self, *, policy: RL2OffPolicyPolicy, config: RL2OffPolicyConfig, generator: torch.Generator
    ) -> None:
        super().__init__(policy=policy, config=config, generator=generator)
        networks = policy.networks
        self.critic_optim = self.optimiser(nn.ModuleList((networks.critic_memory, networks.critic)))
        self.actor_optim = self.optimiser(nn.ModuleList((networks.actor_memory, networks.actor)))

    # -- data -------------------------------------------------------------------------------------

    def draw(self, buffer: TaskReplayBuffer, batch_size: int) -> TrialBatch:
        """Trials of tasks drawn uniformly with replacement, or chunks of them."""
        return self.batch(buffer, draw_trials(buffer, buffer.draw_tasks(batch_size)))

    def batch(self, buffer: TaskReplayBuffer, trials: TrialRows) -> TrialBatch:
        """These trials, or chunks around the steps by which they were drawn."""
        steps = min(self.config.chunk_length, trials.rows.shape[1])
        start_B = chunk_starts(trials.drawn, trials.length - 1 - trials.drawn, steps)
        place_BS = start_B[:, None] + np.arange(steps)
        valid_BS = place_BS < trials.length[:, None]
        place_BS = np.minimum(place_BS, trials.length[:, None] - 1)
        rows_BS = np.take_along_axis(trials.rows, place_BS, 1)
        inputs_BLI = trial_inputs(buffer, trials)
        log_mu_BS = np.where(buffer.step_index[rows_BS] == 0, np.inf, buffer.info[LOG_MU].take(rows_BS))
        act_BSA = buffer.act.take(rows_BS, 0)
        after_BSI = previous_inputs(act_BSA, buffer.rew.take(rows_BS), np.zeros(rows_BS.shape))
        return TrialBatch(
            self.tensor(np.take_along_axis(inputs_BLI, place_BS[..., None], 1)),
            self.tensor(np.concatenate((buffer.obs_next.take(rows_BS, 0), after_BSI), -1)),
            self.tensor(inputs_BLI[:, : start_B.max()]),
            self.tensor(start_B),
            self.tensor(act_BSA),
            self.tensor(self.rewards(buffer).take(rows_BS)),
            self.tensor(1.0 - buffer.terminated.take(rows_BS).astype(np.float32)),
            self.tensor(log_mu_BS.astype(np.float32)),
            self.tensor(valid_BS),
            self.tensor(np.zeros((len(rows_BS), 0), np.float32)),
        )

    # -- updates ----------------------------------------------------------------------------------

    @staticmethod
    def outputs(memory: Memory, data: TrialBatch) -> Tensor:
        """Outputs (B, S, W) of a memory before each action; no gradient reaches the steps of the prefix."""
        outputs_BSW: Tensor = memory(data.inputs, memory.state_after(data.prefix, data.prefix_length))
        return outputs_BSW

    @torch.no_grad()
    def target_view(self, data: TrialBatch) -> TrialView:
        """The target networks before and after each step."""
        target = self.target.network

        def outputs(memory: Memory) -> tuple[Tensor, Tensor]:
            found = memory.states(data.inputs, memory.state_after(data.prefix, data.prefix_length))
            flat = LSTMState(*(part.flatten(0, 1) for part in found))
            after = memory.step(data.following.flatten(0, 1), flat).hidden
            return found.hidden, after.view_as(found.hidden)

        acting, valued = outputs(target.actor_memory), outputs(target.critic_memory)
        return TrialView(
            (target.actor(acting[0]), target.actor(acting[1])),
            (target.critic.map_states(valued[0], data.task), target.critic.map_states(valued[1], data.task)),
        )

    def values(self, data: TrialBatch) -> Tensor:
        """See `RetraceAlgorithm.values`."""
        networks = self.policy.networks
        hidden_BSW = self.outputs(networks.critic_memory, data)
        values_BS: Tensor = networks.critic(hidden_BSW, data.task, data.act)
        return values_BS

    def acting(self, data: TrialBatch) -> Gaussian:
        """See `ValueGradientAlgorithm.acting`."""
        networks = self.policy.networks
        policy: Gaussian = networks.actor(self.outputs(networks.actor_memory, data))
        return policy

    def trial_agent(self) -> RL2OffPolicyAgent:
        """The trained agent for `metarl_envs.evaluation`."""
        return RL2OffPolicyAgent(self.policy)
