"""PEARL: probabilistic embeddings for actor-critic reinforcement learning.

Rakelly, Zhou, Quillen, Finn, Levine 2019, "Efficient Off-Policy Meta-Reinforcement Learning via
Probabilistic Context Variables" (arXiv:1903.08254). Where the paper gives no details, the
values and the order of steps are those of the authors' released code (katerakelly/oyster).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl_agents.common.context import Context
from metarl_agents.common.seeding import torch_stream
from metarl_agents.networks.actors import TanhGaussianActor
from metarl_agents.networks.encoders import (
    ProductOfGaussiansEncoder,
    factor_sums,
    kl_to_standard_normal,
    product_of_gaussians,
    transition_features,
)
from metarl_agents.networks.optimisers import adam
from metarl_agents.replay.algorithm import MetaOffPolicyAlgorithm
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.collector import Schedule, Stage
from metarl_agents.replay.policy import MetaPolicy
from metarl_agents.replay.soft_value import SoftValueConfig, SoftValueNetworks
from metarl_agents.replay.transitions import Transitions

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial


@dataclass(frozen=True)
class PEARLConfig(SoftValueConfig):
    """Configuration of PEARL; the defaults are the paper's for MetaHalfCheetah-Vel.

    Attributes:
        prior_steps: steps per visited task with z from the prior; they form the task's context.
        posterior_steps: steps with z from the posterior that are added to the context.
        extra_posterior_steps: steps with z from the posterior that only train the actor-critic.
        context_batch: transitions per task from which the posterior is inferred in training.
        latent_size: dimension of z.
        encoder_hidden: widths of the encoder's hidden layers.
        kl_weight: weight of the KL term, which is summed over tasks and latent dimensions.
        context_next_observation: whether the encoder also receives the next observation, for families
            whose tasks differ in dynamics.
        prior_episodes: number of episodes of a trial with z from the prior, at most the number of
            episodes before the scored ones; 0 for all of these.
    """

    prior_steps: int = 400
    posterior_steps: int = 0
    extra_posterior_steps: int = 600
    context_batch: int = 100
    latent_size: int = 5
    encoder_hidden: tuple[int, ...] = (200, 200, 200)
    kl_weight: float = 0.1
    context_next_observation: bool = False
    prior_episodes: int = 0

    evaluation_keys: ClassVar[tuple[str, ...]] = ("prior_episodes",)
    may_be_zero: ClassVar[tuple[str, ...]] = (
        *SoftValueConfig.may_be_zero,
        "posterior_steps",
        "extra_posterior_steps",
        "kl_weight",
        "context_next_observation",
        "prior_episodes",
    )


class PEARLBatch(NamedTuple):
    """The data of one gradient step.

    Attributes:
        context: recent transitions (T, C, I) of each task, as encoder inputs.
        transitions: transitions for the actor-critic.
    """

    context: Tensor
    transitions: Transitions


class PEARLPolicy(MetaPolicy):
    """Actor pi(a|s, z) and inference network q(z|c).

    Conditionings: "prior" draws z from N(0, I) for each rollout, "posterior" from q(z|c) with c
    drawn from the context view of the rollout's task.
    """

    def __init__(
        self,
        *,
        actor: TanhGaussianActor,
        encoder: ProductOfGaussiansEncoder,
        context_batch: int,
        context_next_observation: bool,
        action_space: Box,
        observation_space: Box,
        generator: torch.Generator,
    ) -> None:
        super().__init__(action_space=action_space, observation_space=observation_space, generator=generator)
        self.actor = actor
        self.encoder = encoder
        self.context_batch = context_batch
        self.context_next_observation = context_next_observation
        self.latent_RZ = torch.zeros(0, encoder.latent, device=generator.device)

    def draw_context(self, buffer: TaskReplayBuffer, tasks_T: IntArray) -> Tensor:
        """Encoder inputs (T, C, I) drawn from the tasks' context views."""
        rows = buffer.sample_context_rows(tasks_T, self.context_batch)
        features = self.features(
            buffer.obs.take(rows, 0),
            buffer.act.take(rows, 0),
            buffer.rew.take(rows),
            buffer.obs_next.take(rows, 0) if self.context_next_observation else None,
        )
        return torch.from_numpy(features).to(self.generator.device)

    def features(
        self,
        obs: NDArray[Any],
        act: NDArray[Any],
        reward: NDArray[Any],
        obs_next: NDArray[Any] | None,
    ) -> NDArray[np.float32]:
        """Encoder inputs of transitions; the next observation is used only if configured."""
        return transition_features(obs, act, reward, obs_next if self.context_next_observation else None)

    def sample_prior(self, count: int) -> Tensor:
        """Latents z ~ N(0, I), shape (count, Z)."""
        return torch.randn(count, self.encoder.latent, generator=self.generator, device=self.generator.device)

    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Draws one z per rollout; see the class.

        Raises:
            ValueError: for a conditioning this policy does not have.
        """
        if conditioning not in ("prior", "posterior"):
            raise ValueError(
                f"the conditioning of PEARL must be 'prior' or 'posterior', not {conditioning!r}"
            )
        noise_RZ = self.sample_prior(len(tasks_R))
        if conditioning == "prior":
            self.latent_RZ = noise_RZ
            return
        with torch.no_grad():
            factors = self.encoder(self.draw_context(buffer, tasks_R))
            mean_RZ, variance_RZ = product_of_gaussians(*factors)
            self.latent_RZ = mean_RZ + variance_RZ.sqrt() * noise_RZ

    def prepared(self) -> dict[str, Any]:
        """See `MetaPolicy.prepared`."""
        return {"latent_RZ": self.latent_RZ}

    def prepare(self, decided: Mapping[str, Any], count: int) -> None:
        """See `MetaPolicy.prepare`."""
        self.latent_RZ = decided["latent_RZ"]

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A) of the rollouts `rows`, or of all, each with its own z."""
        latent = self.latent_RZ if rows is None else self.latent_RZ[torch.as_tensor(rows)]
        inputs = torch.cat((observations_RO, latent), -1)
        return self.actor.act(inputs, self.generator, deterministic=deterministic)


class PEARL(MetaOffPolicyAlgorithm[PEARLPolicy]):
    """Actor-critic conditioned on an inferred task variable; see the module for the source."""

    config_class: ClassVar[type[PEARLConfig]] = PEARLConfig
    observe_task: ClassVar[bool] = False
    loss_names: ClassVar[tuple[str, ...]] = (
        "critic_loss", "value_loss", "actor_loss", "kl", "posterior_variance", "entropy",
    )  # fmt: skip

    def __init__(
        self,
        *,
        policy: PEARLPolicy,
        networks: SoftValueNetworks,
        config: PEARLConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(
            policy=policy,
            training_reward=config.training_reward,
            report_every=config.updates_per_iteration,
            generator=generator,
        )
        self.networks = networks
        self.config = config
        factory = adam(config.learning_rate)
        # The encoder is trained with the critics: its gradient is that of the Q loss and the KL term.
        self.critic_optim = self._create_optimizer(nn.ModuleList((networks.critics, policy.encoder)), factory)
        self.value_optim = self._create_optimizer(networks.value, factory)
        self.actor_optim = self._create_optimizer(policy.actor, factory)

    @classmethod
    def from_config(
        cls,
        config: PEARLConfig,
        context: Context,
    ) -> Self:
        """Builds the networks with initial weights from the run's seed, on the device."""
        weights = context.weights()
        policy = cls.make_policy(config, context, weights)
        networks = SoftValueNetworks(
            context.observations + config.latent_size,
            context.actions,
            config.hidden,
            tau=config.tau,
            gamma=config.gamma,
            reward_scale=config.reward_scale,
            generator=weights,
            released=config.released_weights,
        )
        return cls(
            policy=policy.to(context.device),
            networks=networks.to(context.device),
            config=config,
            generator=context.stream("update"),
        )

    @classmethod
    def make_policy(
        cls,
        config: PEARLConfig,
        context: Context,
        weights: torch.Generator,
    ) -> PEARLPolicy:
        """Actor and encoder, which are built first from the generator of the initial weights."""
        observations, actions = context.observations, context.actions
        latent = config.latent_size
        transition = observations * (1 + config.context_next_observation) + actions + 1
        start: dict[str, Any] = {"generator": weights, "released": config.released_weights}
        return PEARLPolicy(
            actor=TanhGaussianActor(observations + latent, config.hidden, actions, **start),
            encoder=ProductOfGaussiansEncoder(transition, config.encoder_hidden, latent, **start),
            context_batch=config.context_batch,
            context_next_observation=config.context_next_observation,
            action_space=context.action_space,
            observation_space=context.observation_space,
            generator=context.stream("acting"),
        )

    @staticmethod
    def schedule(config: PEARLConfig) -> Schedule:
        """Algorithm 1, lines 4 to 8, with the details of the released code.

        The context of a visited task is cleared and then filled with episodes with z from the
        prior. Each posterior phase starts with one episode with z from the prior; then the
        posterior is inferred again before every episode.
        """
        stages = [Stage(config.prior_steps, "prior", to_context=True)]
        if config.posterior_steps:
            # Inference from the data of the same phase requires one episode at a time.
            stages.append(
                Stage(
                    config.posterior_steps,
                    "posterior",
                    to_context=True,
                    first="prior",
                    one_at_a_time=True,
                )
            )
        if config.extra_posterior_steps:
            stages.append(Stage(config.extra_posterior_steps, "posterior", to_context=False, first="prior"))
        return Schedule(
            initial=(Stage(config.initial_steps, "prior", to_context=True),),
            iteration=tuple(stages),
        )

    def draw(self, buffer: TaskReplayBuffer, batch_size: int) -> PEARLBatch:
        """Data of `meta_batch` tasks, drawn uniformly with replacement."""
        return self.draw_from(buffer, buffer.draw_tasks(self.config.meta_batch), batch_size)

    def draw_from(self, buffer: TaskReplayBuffer, tasks_T: IntArray, batch_size: int) -> PEARLBatch:
        """Context from each task's latest prior data, transitions from all of its data."""
        return PEARLBatch(
            self.policy.draw_context(buffer, tasks_T),
            self.transitions(buffer, buffer.sample_tasks_rows(tasks_T, batch_size)),
        )

    def gradient_step(self, data: PEARLBatch) -> dict[str, Tensor]:
        """One step of every network, Algorithm 1, lines 11 to 18.

        Order of the released code: (1) critics and encoder on L_Q + lambda KL, (2) value network,
        (3) its target copy, (4) actor. Steps 2 to 4 use the critics after step 1 and a detached z.
        """
        config, networks = self.config, self.networks
        # q(z|c) = prod_n N(f(c_n)), eq. 2, and its reparameterised sample: one z per task, tiled
        # over that task's transitions.
        mean_TZ, variance_TZ = product_of_gaussians(*self.policy.encoder(data.context))
        noise_TZ = torch.randn(mean_TZ.shape, generator=self.generator, device=self.device)
        latent_TZ = mean_TZ + variance_TZ.sqrt() * noise_TZ
        kl = kl_to_standard_normal(mean_TZ, variance_TZ)
        batch_size = data.transitions.reward.shape[1]
        latent_BZ = latent_TZ.repeat_interleave(batch_size, 0)
        obs_BO, act_BA, reward_B, terminated_B, next_BO = data.transitions.flat()

        # (1) L_critic = E (Q(s, a, z) - (r + gamma V'(s', sg z)))^2, eq. 3 with two critics; no
        # gradient reaches z through the target.
        state_BX = torch.cat((obs_BO, latent_BZ), -1)
        next_BX = torch.cat((next_BO, latent_BZ.detach()), -1)
        target_B = networks.critic_target(reward_B, terminated_B, next_BX)
        critic_loss = networks.critic_loss(state_BX, act_BA, target_B)
        self.critic_optim.step(critic_loss + config.kl_weight * kl)

        # (2) to (4): L_value and L_actor, the latter eq. 4 with z detached.
        state_BX = state_BX.detach()
        sample = self.actor_sample(state_BX, data)
        losses = networks.actor_losses(
            state_BX,
            sample,
            mean_penalty=config.mean_penalty,
            log_std_penalty=config.log_std_penalty,
        )
        self.value_optim.step(losses.value)
        networks.target_value.follow()
        self.actor_optim.step(losses.actor)
        return {
            "critic_loss": critic_loss,
            "value_loss": losses.value,
            "actor_loss": losses.actor,
            "kl": kl,
            "posterior_variance": variance_TZ.mean(),
            "entropy": -losses.log_prob.mean(),
        }

    def actor_sample(self, state_BX: Tensor, data: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A newly sampled action for every state of the batch; see `TanhGaussianActor.rsample`."""
        actor: TanhGaussianActor = self.policy.actor
        return actor.rsample(state_BX, self.generator)

    def trial_agent(self) -> "PEARLAgent":
        """The trained agent for `metarl_envs.evaluation`."""
        return PEARLAgent(self.policy, prior_episodes=self.config.prior_episodes)


class PEARLAgent:
    """PEARL adapting to new tasks, Algorithm 2, all tasks of a trial in parallel.

    The first episodes use z from the prior, drawn again for each; later ones use z from the
    posterior given all transitions of the trial so far.

    Args:
        policy: actor and inference network.
        prior_episodes: number of episodes with the prior, at most the trial's
            `adaptation_episodes`; 0 for all of these.
    """

    observe_task = False

    def __init__(self, policy: PEARLPolicy, *, prior_episodes: int) -> None:
        self.policy = policy
        self.wanted_prior_episodes = prior_episodes

    def begin_trial(self, trial: "Trial") -> None:
        """Starts a new trial and draws z from the prior."""
        policy = self.policy
        self.deterministic = trial.deterministic
        self.prior_episodes = min(
            self.wanted_prior_episodes or trial.adaptation_episodes, trial.adaptation_episodes
        )
        policy.generator = torch_stream(trial.seed, "trial", policy.generator.device)
        shape = (trial.num_tasks, policy.encoder.latent)
        # The prior N(0, I) is not a factor: PEARL's posterior is the product of the transitions'
        # factors alone.
        self.precision_TZ = torch.zeros(shape, device=policy.generator.device)
        self.weighted_TZ = torch.zeros_like(self.precision_TZ)
        self.features: list[NDArray[np.float32]] = []
        self.active: list[NDArray[np.bool_]] = []
        self.finished_episodes = 0
        policy.latent_RZ = policy.sample_prior(trial.num_tasks)

    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A) for observations (T, O)."""
        return self.policy.act_on_arrays(observations, deterministic=self.deterministic)

    def observe(self, transition: "Transition") -> None:
        """Stores the transition of each active task."""
        self.features.append(
            self.policy.features(
                transition.observation,
                transition.action,
                transition.reward,
                transition.next_observation,
            )
        )
        self.active.append(np.array(transition.active, bool))

    @torch.no_grad()
    def end_episode(self) -> None:
        """Adds the episode's factors to the posterior and draws z for the next episode."""
        policy = self.policy
        if self.features:
            context_TSI = torch.from_numpy(np.stack(self.features, 1)).to(policy.generator.device)
            active_TS = torch.from_numpy(np.stack(self.active, 1)).to(policy.generator.device)
            mean_TSZ, variance_TSZ = policy.encoder(context_TSI)
            # A factor with infinite variance has no weight.
            variance_TSZ = variance_TSZ.masked_fill(~active_TS[..., None], torch.inf)
            precision_TZ, weighted_TZ = factor_sums(mean_TSZ, variance_TSZ)
            self.precision_TZ += precision_TZ
            self.weighted_TZ += weighted_TZ
            self.features.clear()
            self.active.clear()
        self.finished_episodes += 1
        noise_TZ = policy.sample_prior(len(self.precision_TZ))
        if self.finished_episodes < self.prior_episodes:
            policy.latent_RZ = noise_TZ
            return
        variance_TZ = self.precision_TZ.reciprocal()
        policy.latent_RZ = self.weighted_TZ * variance_TZ + variance_TZ.sqrt() * noise_TZ
