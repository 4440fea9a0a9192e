"""PEARL*: SVG(0) with Retrace whose policy and critic receive a variable that an LSTM infers from the trial.

The baseline of Galashov et al. 2020 (arXiv:2009.04875, section 5.2 and appendix A), after PEARL (Rakelly et
al. 2019, arXiv:1903.08254): the encoder is an LSTM over the steps of the running trial instead of a product
of Gaussians, and the actor-critic is that of `svg0`. As in PEARL, the encoder learns from the loss of the
critic and the KL divergence of the posterior from N(0, I), and z is drawn at the beginning of an episode
and kept; before the first episode, it is drawn from N(0, I).

A gradient step draws, for each chunk, the beginning of a trial of the same task, of uniformly drawn length.
Rewards that the encoder sees are always those of the environment; the paper trains actor and critic of the
sparse navigation on the dense reward (`training_reward`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarl_agents.common.context import Context
from metarl_agents.networks.encoders import MIN_VARIANCE, transition_features
from metarl_agents.networks.layer_norm import ActionValue, GaussianPolicy
from metarl_agents.networks.lstm import Memory, selected
from metarl_agents.networks.perceptrons import linear
from metarl_agents.priors.inference import (
    InferenceAgent,
    InferenceAlgorithm,
    InferenceConfig,
    InferencePolicy,
)
from metarl_agents.priors.learner import ChunkBatch
from metarl_agents.priors.value_gradient import LOSSES
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.trials import TrialRows, draw_trials

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial


@dataclass(frozen=True)
class PearlStarConfig(InferenceConfig):
    """Configuration of PEARL*.

    Attributes:
        latent_size: size of z.
        kl_weight: weight of KL(q(z|c) || N(0, I)) in the encoder's loss.
        shared_q: whether the critic is a product of features of state and action and a weight vector, which
            is a function of z. Its random weights make policies with different z explore in different
            directions.
    """

    latent_size: int = 5
    kl_weight: float = 1e-3
    shared_q: bool = False

    may_be_zero: ClassVar[tuple[str, ...]] = (*InferenceConfig.may_be_zero, "kl_weight", "shared_q")


class TrialEncoder(nn.Module):
    """q(z|c): an LSTM over steps, then a linear layer to a diagonal Gaussian.

    Args:
        inputs: size I of a step.
        width: size of the recurrent state.
        latent: size Z of z.
        generator: CPU generator of the initial weights.
    """

    def __init__(self, inputs: int, width: int, latent: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.memory = Memory(inputs, (), width, generator=generator)
        self.head = linear(width, 2 * latent, generator=generator, weight_bound=3e-3, bias=0.0)
        self.latent = latent

    def gaussian(self, hidden_BW: Tensor, empty_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (B, Z) for recurrent states; those of N(0, I) without any step."""
        mean_BZ, raw_BZ = self.head(hidden_BW).chunk(2, -1)
        empty_B1 = empty_B[:, None]
        variance_BZ = F.softplus(raw_BZ).clamp(min=MIN_VARIANCE)
        return torch.where(empty_B1, 0.0, mean_BZ), torch.where(empty_B1, 1.0, variance_BZ)

    def forward(self, steps_BLI: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (B, Z) after the first `length_B` steps."""
        return self.gaussian(self.memory.output_after(steps_BLI, length_B), length_B == 0)


class PearlStarNetworks(nn.Module):
    """Critic, policy and encoder, in one module for its target copy.

    Args:
        config: the configuration.
        context: spaces, and the seed of the initial weights.
    """

    def __init__(self, config: PearlStarConfig, context: Context) -> None:
        super().__init__()
        weights = context.weights()
        observations, actions, latent = context.observations, context.actions, config.latent_size
        self.critic = ActionValue(
            observations,
            latent,
            actions,
            config.critic_hidden,
            shared=config.shared_q,
            described=True,
            generator=weights,
        )
        self.actor = GaussianPolicy(
            observations, latent, config.hidden, actions, std=config.std, generator=weights
        )
        self.encoder = TrialEncoder(
            2 * observations + actions + 1, config.memory_width, latent, generator=weights
        )


class PearlStarBatch(NamedTuple):
    """The data of one gradient step.

    Attributes:
        chunk: chunks, without inputs about the task.
        context: encoder inputs (B, L, I) of the beginning of a trial of the same task.
        length: number (B,) of these steps, at least 1.
    """

    chunk: ChunkBatch
    context: Tensor
    length: Tensor


class PearlStarPolicy(InferencePolicy):
    """pi(a|s, z) with one z per episode."""

    def context(self, buffer: TaskReplayBuffer, trials: TrialRows) -> Tensor:
        """Encoder inputs (B, L, I) of the steps of trials."""
        rows = trials.rows
        return self.tensor(
            transition_features(
                buffer.obs.take(rows, 0),
                buffer.act.take(rows, 0).clip(-1.0, 1.0),
                buffer.rew.take(rows),
                buffer.obs_next.take(rows, 0),
            )
        )

    @torch.no_grad()
    def begin_episodes(self, buffer: TaskReplayBuffer, trials: TrialRows) -> None:
        """Draws z of each rollout."""
        length_R = torch.as_tensor(trials.length).to(self.generator.device)
        self.draw(*self.networks.encoder(self.context(buffer, trials), length_R))

    def draw(self, mean_RZ: Tensor, variance_RZ: Tensor) -> None:
        """Draws z of each rollout from a Gaussian."""
        noise_RZ = torch.randn(mean_RZ.shape, generator=self.generator, device=mean_RZ.device)
        self.latent_RZ = mean_RZ + variance_RZ.sqrt() * noise_RZ

    def state(self) -> dict[str, Tensor]:
        """See `InferencePolicy.state`."""
        return {"latent_RZ": self.latent_RZ}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `InferencePolicy.load_state`."""
        self.latent_RZ = state["latent_RZ"]

    def choose(self, obs_RO: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        """See `InferencePolicy.choose`."""
        return self.drawn(self.networks.actor(obs_RO, self.latent_RZ), deterministic)


class PearlStarAgent(InferenceAgent):
    """Evaluation agent of PEARL*: z is drawn anew at the beginning of each episode."""

    def begin_trial(self, trial: "Trial") -> None:
        """See `InferenceAgent.begin_trial`."""
        super().begin_trial(trial)
        self.memory = self.policy.networks.encoder.memory.start(trial.num_tasks)
        self.empty_T = torch.ones(trial.num_tasks, dtype=torch.bool, device=self.memory.hidden.device)
        self.drawn = False

    @torch.no_grad()
    def act(self, observations: np.typing.NDArray[Any]) -> np.typing.NDArray[np.float32]:
        """Actions (T, A) for observations (T, O)."""
        if not self.drawn:
            self.policy.draw(*self.policy.networks.encoder.gaussian(self.memory.hidden, self.empty_T))
            self.drawn = True
        return super().act(observations)

    @torch.no_grad()
    def observe(self, transition: "Transition") -> None:
        """The encoder reads the step of the tasks whose episode goes on."""
        steps_TI = self.policy.tensor(
            transition_features(
                transition.observation,
                transition.action.clip(-1.0, 1.0),
                transition.reward,
                transition.next_observation,
            )
        )
        active_T = torch.as_tensor(transition.active).to(steps_TI.device)
        new = self.policy.networks.encoder.memory.step(steps_TI, self.memory)
        self.memory = selected(active_T, new, self.memory)
        self.empty_T = self.empty_T & ~active_T

    def end_episode(self) -> None:
        """See `InferenceAgent.end_episode`."""
        super().end_episode()
        self.drawn = False


class PearlStar(InferenceAlgorithm[PearlStarPolicy]):
    """PEARL*; see the module for the source."""

    config_class: ClassVar[type[PearlStarConfig]] = PearlStarConfig
    config: PearlStarConfig
    policy_class: ClassVar[type[PearlStarPolicy]] = PearlStarPolicy
    networks_class: ClassVar[type[PearlStarNetworks]] = PearlStarNetworks
    loss_names: ClassVar[tuple[str, ...]] = (*LOSSES, "kl", "posterior_variance")

    def __init__(
        self, *, policy: PearlStarPolicy, config: PearlStarConfig, generator: torch.Generator
    ) -> None:
        super().__init__(policy=policy, config=config, generator=generator)
        networks = policy.networks
        # The encoder is trained with the critic: its gradient is that of the critic's loss and the KL term.
        self.critic_optim = self.optimiser(nn.ModuleList((networks.critic, networks.encoder)))
        self.actor_optim = self.optimiser(networks.actor)

    def draw(self, buffer: TaskReplayBuffer, batch_size: int) -> PearlStarBatch:
        """Chunks of tasks drawn uniformly, with the beginnings of trials of the same tasks."""
        tasks_B = buffer.draw_tasks(batch_size)
        trials = draw_trials(buffer, tasks_B)
        length_B = 1 + (buffer.generator.random(batch_size) * trials.length).astype(np.int64)
        beginning = TrialRows(trials.rows[:, : length_B.max()], length_B, length_B - 1)
        return PearlStarBatch(
            self.chunks(buffer, tasks_B, self.tensor(np.zeros((batch_size, 0), np.float32))),
            self.policy.context(buffer, beginning),
            self.tensor(length_B),
        )

    def losses(self, data: PearlStarBatch) -> dict[str, Tensor]:
        """One step of critic and encoder, then of the policy."""
        mean_BZ, variance_BZ = self.policy.networks.encoder(data.context, data.length)
        noise_BZ = torch.randn(mean_BZ.shape, generator=self.generator, device=self.device)
        latent_BZ = mean_BZ + variance_BZ.sqrt() * noise_BZ
        # KL(q(z|c) || N(0, I)), mean over the batch.
        kl = 0.5 * (variance_BZ + mean_BZ.square() - 1.0 - variance_BZ.log()).sum(-1).mean()
        result = self.value_gradient_step(data.chunk._replace(task=latent_BZ), self.config.kl_weight * kl)
        return result | {"kl": kl.detach(), "posterior_variance": variance_BZ.detach().mean()}

    def trial_agent(self) -> PearlStarAgent:
        """The trained agent for `metarl_envs.evaluation`."""
        return PearlStarAgent(self.policy)
