"""CRL: PEARL whose actor has an output layer per task, which an adapter network predicts.

Liu, Li, Cao, Wan, Guo, "Celebrating Robustness in Efficient Off-Policy Meta-Reinforcement
Learning". Encoder, critics, schedule and hyperparameters are PEARL's (they are the same in the
paper's experiments). The heads (Section III-B, Fig. 2) and the adapter (eq. 7, 8) are new.

Decisions where the paper gives no details:

- All heads are equal at first, so differences between heads are only due to their tasks. In training,
  a task's episodes use its own head.
- The adapter predicts a head's deviation from the mean head, divided by the scale of the heads, because
  heads are small numbers (U(±1e-3) at first) that grow during training. Targets have no gradient.
- Its predictions for the H transitions of eq. 8 are averaged, and these are all transitions of the
  trial so far. The first episode, before any transition, uses the mean head and z from the prior;
  Algorithm 2 infers z before every later one, while PEARL explores for two episodes.
- The adapter learns from the first `adapter_batch` transitions of a task's batch. It and the
  encoder use the environment's reward.
- Eq. 10 contains no discount; PEARL's is used.
- Size, batch and step size of the adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl_agents.algorithms.pearl import PEARL, PEARLAgent, PEARLConfig, PEARLPolicy
from metarl_agents.common.context import Context
from metarl_agents.common.seeding import torch_stream
from metarl_agents.networks.distributions import tanh_gaussian_act, tanh_gaussian_draw
from metarl_agents.networks.encoders import ProductOfGaussiansEncoder, transition_features
from metarl_agents.networks.heads import HeadAdapter, Heads, MultiHeadActor, Standard
from metarl_agents.networks.optimisers import adam
from metarl_agents.replay.buffer import IntArray, TaskReplayBuffer
from metarl_agents.replay.soft_value import SoftValueNetworks
from metarl_agents.replay.transitions import Transitions

if TYPE_CHECKING:
    from metarl_envs.evaluation import Transition, Trial


@dataclass(frozen=True)
class CRLConfig(PEARLConfig):
    """Configuration of CRL; defaults shared with PEARL are PEARL's, except the episodes with the prior.

    Attributes:
        adapter_hidden: widths of the adapter's hidden layers.
        adapter_learning_rate: Adam's step size for the adapter.
        adapter_batch: transitions per task and gradient step from which the adapter learns; at most
            as many as in the actor-critic's batch.
    """

    # Algorithm 2 infers z before every episode but the first.
    prior_episodes: int = 1
    adapter_hidden: tuple[int, ...] = (200, 200, 200)
    adapter_learning_rate: float = 3e-4
    adapter_batch: int = 64


class CRLBatch(NamedTuple):
    """The data of one gradient step.

    Attributes:
        context: recent transitions (T, C, I) of each task, as encoder inputs.
        transitions: transitions for the actor-critic.
        tasks: indices (T,) of the tasks, int64.
        evidence: transitions (T, B', J) as inputs of the adapter.
    """

    context: Tensor
    transitions: Transitions
    tasks: Tensor
    evidence: Tensor


class CRLPolicy(PEARLPolicy):
    """Actor pi(a|s, z) with a head per training task, inference network q(z|c), and the adapter.

    Conditionings are PEARL's; each rollout acts with the head of its task.
    """

    actor: MultiHeadActor

    def __init__(self, *, adapter: HeadAdapter, **parts: Any) -> None:
        super().__init__(**parts)
        self.adapter = adapter
        with torch.no_grad():
            self.heads_R = self.actor.heads(torch.zeros(0, dtype=torch.int64))

    def begin_rollouts(self, tasks_R: IntArray, conditioning: str, buffer: TaskReplayBuffer) -> None:
        """Draws one z per rollout and selects the head of its task; see the class.

        Raises:
            ValueError: for a conditioning this policy does not have.
        """
        super().begin_rollouts(tasks_R, conditioning, buffer)
        with torch.no_grad():
            self.heads_R = self.actor.heads(torch.from_numpy(tasks_R).to(self.generator.device))

    def prepared(self) -> dict[str, Any]:
        """See `MetaPolicy.prepared`."""
        return super().prepared() | {"heads_R": tuple(self.heads_R)}

    def prepare(self, decided: Mapping[str, Any], count: int) -> None:
        """See `MetaPolicy.prepare`."""
        super().prepare(decided, count)
        self.heads_R = Heads(*decided["heads_R"])

    @torch.no_grad()
    def act(self, observations_RO: Tensor, rows: NDArray[Any] | None, *, deterministic: bool) -> Tensor:
        """Actions (R, A) of the rollouts `rows`, or of all, each with its own z and head."""
        latent, heads = self.latent_RZ, self.heads_R
        if rows is not None:
            chosen = torch.as_tensor(rows, device=latent.device)
            latent, heads = latent[chosen], heads.rows(chosen)
        mean, log_std = self.actor(torch.cat((observations_RO, latent), -1), heads)
        return tanh_gaussian_act(mean, log_std, self.generator, deterministic=deterministic)


class CRL(PEARL):
    """PEARL with task-specific heads and their adapter; see the module for the source."""

    config_class: ClassVar[type[CRLConfig]] = CRLConfig
    loss_names: ClassVar[tuple[str, ...]] = (*PEARL.loss_names, "adapter_loss", "head_scale")
    policy: CRLPolicy
    config: CRLConfig

    def __init__(
        self,
        *,
        policy: CRLPolicy,
        networks: SoftValueNetworks,
        config: CRLConfig,
        generator: torch.Generator,
    ) -> None:
        # Trunk and heads share PEARL's optimiser of the actor, as in Algorithm 1, line 23. Adam's
        # momentum also changes the heads of tasks that a step did not draw.
        super().__init__(policy=policy, networks=networks, config=config, generator=generator)
        self.adapter_optim = self._create_optimizer(policy.adapter, adam(config.adapter_learning_rate))

    @classmethod
    def make_policy(
        cls,
        config: PEARLConfig,
        context: Context,
        weights: torch.Generator,
    ) -> CRLPolicy:
        """PEARL's weights for actor and encoder; those of the adapter are from a separate stream."""
        assert isinstance(config, CRLConfig)
        observations, actions = context.observations, context.actions
        latent = config.latent_size
        transition = observations * (1 + config.context_next_observation) + actions + 1
        start: dict[str, Any] = {"generator": weights, "released": config.released_weights}
        actor = MultiHeadActor(observations + latent, config.hidden, actions, context.num_tasks, **start)
        return CRLPolicy(
            actor=actor,
            encoder=ProductOfGaussiansEncoder(transition, config.encoder_hidden, latent, **start),
            adapter=HeadAdapter(
                2 * observations + actions + 1,
                config.adapter_hidden,
                actor.heads().flat().shape[1],
                generator=torch_stream(context.seed, "adapter weights"),
            ),
            context_batch=config.context_batch,
            context_next_observation=config.context_next_observation,
            action_space=context.action_space,
            observation_space=context.observation_space,
            generator=context.stream("acting"),
        )

    # A CRLBatch is not a PEARLBatch, but contains all data that PEARL's step needs. Only `draw_from`
    # and `gradient_step` use it.

    def draw_from(  # type: ignore[override]
        self, buffer: TaskReplayBuffer, tasks_T: IntArray, batch_size: int
    ) -> CRLBatch:
        """PEARL's data, the indices of their tasks, and the inputs of the adapter."""
        context = self.policy.draw_context(buffer, tasks_T)
        rows_TB = buffer.sample_tasks_rows(tasks_T, batch_size)
        seen = rows_TB[:, : self.config.adapter_batch]
        evidence = transition_features(
            buffer.obs.take(seen, 0),
            buffer.act.take(seen, 0),
            buffer.rew.take(seen),
            buffer.obs_next.take(seen, 0),
        )
        return CRLBatch(
            context, self.transitions(buffer, rows_TB), self.tensor(tasks_T), self.tensor(evidence)
        )

    def gradient_step(self, data: CRLBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """PEARL's step, Algorithm 1, lines 22 to 24, then (5) the adapter, line 25.

        The adapter's targets are the heads after the actor's step.
        """
        losses = super().gradient_step(data)  # type: ignore[arg-type]
        loss, standard = self.adapter_loss(data)
        self.adapter_optim.step(loss)
        return losses | {"adapter_loss": loss, "head_scale": standard.scale}

    def actor_sample(self, state_BX: Tensor, data: CRLBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A newly sampled action for every state with the head of its task."""
        actor = self.policy.actor
        mean_BA, log_std_BA = actor(state_BX, actor.heads(data.tasks))
        return tanh_gaussian_draw(mean_BA, log_std_BA, self.generator)

    def adapter_loss(self, data: CRLBatch) -> tuple[Tensor, Standard]:
        """The loss of eq. 7 for standardised heads, and the standardisation.

        It is a mean over tasks, transitions and entries. Predicting the mean head for every training
        task would give 1.
        """
        with torch.no_grad():
            heads_KD = self.policy.actor.heads().flat()
            standard = Standard.of(heads_KD)
            target_TD = (heads_KD.index_select(0, data.tasks) - standard.mean) / standard.scale
        prediction_TBD = self.policy.adapter(data.evidence)
        return (prediction_TBD - target_TD[:, None]).square().mean(), standard

    def trial_agent(self) -> "CRLAgent":
        """The trained agent for `metarl_envs.evaluation`."""
        return CRLAgent(self.policy, prior_episodes=self.config.prior_episodes)


class CRLAgent(PEARLAgent):
    """CRL adapting to new tasks, Algorithm 2, all tasks of a trial in parallel.

    The first episode uses z from the prior and the mean head. Later episodes use the predicted head
    and, with the preset's `prior_episodes` of 1, z from the posterior given all transitions of the
    trial so far. Trunk, encoder and adapter do not change.
    """

    policy: CRLPolicy

    def begin_trial(self, trial: "Trial") -> None:
        """Starts a new trial, draws z from the prior and selects the mean head."""
        super().begin_trial(trial)
        actor, adapter = self.policy.actor, self.policy.adapter
        with torch.no_grad():
            heads = actor.heads()
            self.standard = Standard.of(heads.flat())
            mean = actor.mean_head()
            every = torch.zeros(trial.num_tasks, dtype=torch.int64, device=mean.weight.device)
            self.policy.heads_R = mean.rows(every)
        # Sums over the transitions of the trial: the adapter's features, and their number.
        self.features_TH = torch.zeros(trial.num_tasks, adapter.width, device=mean.weight.device)
        self.count_T1 = torch.zeros(trial.num_tasks, 1, device=mean.weight.device)
        self.evidence: list[NDArray[np.float32]] = []

    def observe(self, transition: "Transition") -> None:
        """Stores the transition of each active task."""
        super().observe(transition)
        self.evidence.append(
            transition_features(
                transition.observation, transition.action, transition.reward, transition.next_observation
            )
        )

    @torch.no_grad()
    def end_episode(self) -> None:
        """Predicts the heads again, and infers and draws z, for the next episode."""
        policy, device = self.policy, self.count_T1.device
        if self.evidence:
            evidence_TSJ = torch.from_numpy(np.stack(self.evidence, 1)).to(device)
            active_TS1 = torch.from_numpy(np.stack(self.active, 1)).to(device)[..., None]
            features_TSH = policy.adapter.features(evidence_TSJ)
            self.features_TH += features_TSH.masked_fill(~active_TS1, 0.0).sum(1)
            self.count_T1 += active_TS1.sum(1)
            self.evidence.clear()
            # The mean of the predictions: the adapter's last layer is linear.
            deviation_TD = policy.adapter.last(self.features_TH / self.count_T1)
            flat_TD = self.standard.mean + self.standard.scale * deviation_TD
            policy.heads_R = policy.actor.heads().like(flat_TD)
        super().end_episode()
