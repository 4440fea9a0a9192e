"""TD3 and TD3-context: the whole update in double precision, written out again."""

import copy

import numpy as np
import pytest
import tianshou.algorithm
import torch
from builders import ACT, OBS, box, build, filled_buffer
from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
from tianshou.algorithm.optim import TorchOptimizerFactory
from tianshou.data import Batch
from tianshou.utils.torch_utils import policy_within_training_step
from torch import nn

from metarl_agents.algorithms.td3 import TD3, TD3Config
from metarl_agents.algorithms.td3_context import ContextBatch, TD3Context, TD3ContextConfig
from metarl_agents.replay.collector import Schedule, Stage
from metarl_agents.replay.deterministic_value import smoothed_action, twin_target
from metarl_agents.replay.transitions import Transitions
from metarl_agents.replay.windows import History, entries_of, first_entries

SMALL = {
    "hidden": (8, 8), "updates_per_iteration": 1, "learning_rate": 1e-2, "tau": 0.1, "gamma": 0.9,
    "policy_every": 2, "target_noise": 0.4, "target_noise_clip": 0.3,
}  # fmt: skip
CONTEXT = SMALL | {"history_length": 5, "context_size": 3}
B = 9


def make_transitions(seed=1):
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return Transitions(
        randn(B, OBS), randn(B, ACT).tanh(), randn(B),
        (torch.rand(B, generator=g) < 0.3).double(), randn(B, OBS),
    )  # fmt: skip


class Plain:
    """The update in bare PyTorch, with PyTorch's own GRU where there is context."""

    def __init__(self, algorithm, context):
        self.config, self.context, self.calls = algorithm.config, context, 0
        if context:
            actor, critic = algorithm.policy.actor, algorithm.networks.critic
            self.actor = nn.ModuleList([self.gru(actor.gru), copy.deepcopy(actor.head.network)])
            self.critic = nn.ModuleList([self.gru(critic.gru), copy.deepcopy(critic.twins)])
        else:
            self.actor = nn.ModuleList([nn.Identity(), copy.deepcopy(algorithm.policy.actor.network)])
            self.critic = nn.ModuleList([nn.Identity(), copy.deepcopy(algorithm.critics)])
        self.slow = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        rate = self.config.learning_rate
        self.optim = [torch.optim.Adam(m.parameters(), rate) for m in (self.actor, self.critic)]

    @staticmethod
    def gru(ours):
        theirs = nn.GRU(ours.inputs, ours.width, dtype=torch.float64)
        with torch.no_grad():
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(theirs, f"{name}_l0").copy_(getattr(ours, name))
        return theirs

    def see(self, gru, obs, history, shift):
        """Observations with the context of each row, rolled row by row over its valid entries."""
        if not self.context:
            return obs
        rows = []
        for column in range(B):
            window = history.entries[shift : shift + self.config.history_length, column]
            valid = history.valid[shift : shift + self.config.history_length, column]
            rows.append(gru(window[valid][:, None])[1][0, 0])
        return torch.cat((obs, torch.stack(rows)), -1)

    def values(self, critic, obs, act, history, shift):
        seen = self.see(critic[0], obs, history, shift)
        # Ours has the action between observation and context.
        inputs = torch.cat((seen[:, :OBS], act, seen[:, OBS:]), -1)
        return critic[1].first(inputs)[:, 0], critic[1].second(inputs)[:, 0]

    def step(self, batch, history, noise, weights=None):
        config, (slow_actor, slow_critic) = self.config, self.slow
        w = torch.ones(B, dtype=torch.float64) if weights is None else weights
        with torch.no_grad():
            eps = (noise * config.target_noise).clamp(-config.target_noise_clip, config.target_noise_clip)
            seen = self.see(slow_actor[0], batch.obs_next, history, 1)
            action = (torch.tanh(slow_actor[1](seen)) + eps).clamp(-1, 1)
            value = torch.min(*self.values(slow_critic, batch.obs_next, action, history, 1))
            target = batch.reward + config.gamma * (1 - batch.terminated) * value
        first, second = self.values(self.critic, batch.obs, batch.act, history, 0)
        loss = (w * ((first - target) ** 2 + (second - target) ** 2)).mean()
        self.optim[1].zero_grad()
        loss.backward()
        self.optim[1].step()
        if self.calls % config.policy_every == 0:
            action = torch.tanh(self.actor[1](self.see(self.actor[0], batch.obs, history, 0)))
            actor_loss = -(w * self.values(self.critic, batch.obs, action, history, 0)[0]).mean()
            self.optim[0].zero_grad()
            actor_loss.backward()
            self.optim[0].step()
            with torch.no_grad():
                for slow, fast in zip(self.slow, (self.actor, self.critic), strict=True):
                    for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
                        a += config.tau * (b - a)
            self.policy_value = -actor_loss.item()
        self.calls += 1
        return loss.item(), target.mean().item(), self.policy_value


def make_history():
    g = torch.Generator().manual_seed(4)
    entries = torch.randn(6, B, ACT + 1 + OBS, generator=g, dtype=torch.float64)
    first = torch.tensor([0, 1, 2, 3, 4, 0, 0, 4, 2])
    return History(entries, torch.arange(6)[:, None] >= first)


@pytest.mark.parametrize("context", [False, True])
def test_the_update_equals_one_written_out_in_double_precision(context):
    kind, config = (TD3Context, TD3ContextConfig(**CONTEXT)) if context else (TD3, TD3Config(**SMALL))
    ours = build(kind, config).double()
    plain = Plain(ours, context)
    history = make_history()
    for call in range(5):
        batch = make_transitions(call)
        state = ours.generator.get_state()
        noise = torch.randn(B, ACT, generator=ours.generator).double()
        ours.generator.set_state(state)
        losses = ours.gradient_step(ContextBatch(batch, history) if context else batch)
        expected = plain.step(batch, history, noise)
        measured = tuple(losses[n].item() for n in ("critic_loss", "target_value", "policy_value"))
        # The smoothing noise is drawn in single precision.
        assert measured == pytest.approx(expected, rel=1e-6, abs=1e-7), call
    if context:
        fast = (ours.policy.actor, ours.networks.critic)
        slow = (ours.networks.target_actor.network, ours.networks.target_critic.network)
    else:
        fast, slow = (
            (ours.policy.actor, ours.critics),
            (ours.target_actor.network, ours.target_critics.network),
        )
    for mine, theirs in zip((*fast, *slow), (plain.actor, plain.critic, *plain.slow), strict=True):
        pairs = zip(mine.parameters(), theirs.parameters(), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_each_unit_learns_from_its_own_loss_only():
    ours = build(TD3Context, TD3ContextConfig(**CONTEXT)).double()
    data = ContextBatch(make_transitions(), make_history())
    ours.updates = 1  # no step of the actor
    ours.gradient_step(data)
    assert ours.networks.critic.gru.weight_ih.grad.abs().max() > 0
    assert all(p.grad is None for p in ours.policy.actor.parameters())
    critic = {k: v.clone() for k, v in ours.networks.critic.state_dict().items()}
    ours.critic_optim.step = lambda loss: None
    for parameter in ours.networks.critic.parameters():
        parameter.grad = None
    ours.gradient_step(data)
    assert ours.policy.actor.gru.weight_ih.grad.abs().max() > 0
    # The actor's loss reaches neither the critics nor their unit.
    assert all(p.grad is None for p in ours.networks.critic.parameters())
    assert all(torch.equal(v, critic[k]) for k, v in ours.networks.critic.state_dict().items())
    for target in (ours.networks.target_actor, ours.networks.target_critic):
        assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in ours.networks.critic.parameters())


def test_tianshous_own_td3_makes_the_same_step_where_nothing_needs_clipping():
    """An independent reference: without smoothing noise its missing clip does not matter."""
    ours = build(TD3, TD3Config(**(SMALL | {"target_noise": 0.0, "policy_every": 1})))

    class Actor(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(ours.policy.actor.network)

        def forward(self, obs, state=None, info=None):
            return torch.tanh(self.net(torch.as_tensor(obs))), state

    class Critic(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.net = copy.deepcopy(network)

        def forward(self, obs, act, info=None):
            return self.net(torch.cat((torch.as_tensor(obs), torch.as_tensor(act)), -1))

    factory = TorchOptimizerFactory(torch.optim.Adam, lr=ours.config.learning_rate)
    theirs = tianshou.algorithm.TD3(
        policy=ContinuousDeterministicPolicy(
            actor=Actor(), action_space=box(ACT), action_scaling=False, action_bound_method=None
        ),
        policy_optim=factory, critic=Critic(ours.critics.first), critic_optim=factory,
        critic2=Critic(ours.critics.second), critic2_optim=factory, tau=ours.config.tau,
        gamma=ours.config.gamma, policy_noise=0.0, noise_clip=0.5, update_actor_freq=1,
    )  # fmt: skip
    data = Transitions(*(column.float() for column in make_transitions()))
    ours.gradient_step(data)
    with torch.no_grad():
        action = theirs.actor_old(data.obs_next)[0]
        target = torch.min(
            theirs.critic_old(data.obs_next, action), theirs.critic2_old(data.obs_next, action)
        )
        returns = data.reward[:, None] + ours.config.gamma * (1 - data.terminated[:, None]) * target
    batch = Batch(
        obs=data.obs.numpy(), act=data.act.numpy(), returns=returns, weight=torch.ones(B), info=Batch()
    )
    with policy_within_training_step(theirs.policy):
        theirs._update_with_batch(batch)
    for mine, other in (
        (ours.policy.actor, theirs.policy.actor),
        (ours.critics.first, theirs.critic),
        (ours.critics.second, theirs.critic2),
        (ours.target_actor.network, theirs.actor_old),
        (ours.target_critics.network.first, theirs.critic_old),
    ):
        for a, b in zip(mine.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_target_actions_stay_within_the_bounds_and_noise_within_its_clip():
    action = torch.tensor([[0.95, -0.95], [0.0, 0.5]]).repeat(500, 1)
    generator = torch.Generator().manual_seed(0)
    smoothed = smoothed_action(action, 2.0, 0.3, generator)
    assert smoothed.abs().max() <= 1.0
    assert (smoothed - action).abs().max() <= 0.3 + 1e-6
    assert (smoothed[1::2, 0].abs() > 0.29).any()
    assert torch.equal(smoothed_action(action, 0.0, 0.3, generator), action)


def test_terminal_states_have_no_future():
    target = twin_target(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]), torch.tensor([10.0, 10.0]), 0.9)
    assert target.tolist() == [10.0, 1.0]


@pytest.mark.parametrize("kind", [TD3, TD3Context])
def test_the_actor_is_delayed_and_the_delay_starts_anew_after_each_collection(kind):
    config = kind.config_class(**((CONTEXT if kind is TD3Context else SMALL) | {"policy_every": 3}))
    agent, buffer = build(kind, config), filled_buffer()

    def moves():
        before = [p.clone() for p in agent.policy.actor.parameters()]
        agent.gradient_step(agent.draw(buffer, 8))
        return not all(
            torch.equal(a, b) for a, b in zip(before, agent.policy.actor.parameters(), strict=True)
        )

    assert [moves() for _ in range(5)] == [True, False, False, True, False]
    agent.begin_updates()
    assert [moves() for _ in range(2)] == [True, False]


def test_gradient_steps_follow_the_released_code():
    config = TD3Config(small_buffer=60, updates_per_iteration=200)
    collected = type("Stats", (), {"n_collected_steps": 90, "n_collected_episodes": 4})()
    assert config.gradient_steps(filled_buffer(tasks=5), collected) == 22
    assert config.gradient_steps(filled_buffer(tasks=6), collected) == 200
    assert TD3.schedule(config) == Schedule(
        initial=(Stage(500, "random", False, cut=50),), iteration=(Stage(1, "exploring", False),)
    )


def test_acting_without_context():
    policy = build(TD3, TD3Config(**(SMALL | {"exploration_noise": 0.5}))).policy
    observations = torch.zeros(200, OBS)
    policy.begin_rollouts(np.arange(200), "random", None)
    actions = policy.act(observations, None, deterministic=False)
    assert actions.std().item() == pytest.approx(3**-0.5, rel=0.1)
    policy.begin_rollouts(np.arange(200), "exploring", None)
    noisy, plain = (policy.act(observations, None, deterministic=d) for d in (False, True))
    assert (noisy - plain).std().item() == pytest.approx(0.5, rel=0.15)
    assert noisy.abs().max() <= 1.0
    assert torch.equal(plain, torch.tanh(policy.actor.network(observations)))
    with pytest.raises(ValueError, match="'random' or 'exploring'"):
        policy.begin_rollouts(np.arange(2), "posterior", None)


def test_acting_with_context_sees_what_training_sees():
    agent = build(TD3Context, TD3ContextConfig(**(CONTEXT | {"exploration_noise": 0.0})))
    policy, g = agent.policy, torch.Generator().manual_seed(0)
    with pytest.raises(RuntimeError, match="call begin_rollouts first"):
        policy.act(torch.zeros(2, OBS), None, deterministic=True)
    policy.begin_rollouts(np.arange(2), "exploring", None)
    observations = torch.randn(8, 2, OBS, generator=g)
    rewards = torch.randn(8, 2, generator=g)
    entries = [first_entries(observations[0], torch.zeros(2, ACT), 0.0)]
    for step in range(8):
        actions = policy.act(observations[step], None, deterministic=False)
        window = torch.stack(entries[-5:])
        expected = policy.actor(observations[step], policy.actor.gru(window, None))
        torch.testing.assert_close(actions, expected.detach(), rtol=1e-5, atol=1e-6)
        second = policy.act(observations[step][[1]], np.array([1]), deterministic=True)
        torch.testing.assert_close(second, actions[[1]], rtol=1e-5, atol=1e-6)
        policy.observe(observations[step], actions, rewards[step])
        entries.append(entries_of(observations[step], actions, rewards[step]))
    with pytest.raises(ValueError, match="'random' or 'exploring'"):
        policy.begin_rollouts(np.arange(2), "prior", None)


def test_losses_are_weighted_and_penalised_where_asked():
    ours = build(TD3Context, TD3ContextConfig(**CONTEXT)).double()
    plain = Plain(ours, True)
    batch, history = make_transitions(), make_history()
    weights = torch.rand(B, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    state = ours.generator.get_state()
    noise = torch.randn(B, ACT, generator=ours.generator).double()
    ours.generator.set_state(state)
    data = ContextBatch(batch, history)
    losses = ours.step(data, ours.critic_optim, ours.actor_optim, weights)
    expected = plain.step(batch, history, noise, weights)
    assert losses["critic_loss"].item() == pytest.approx(expected[0], rel=1e-6)
    assert losses["policy_value"].item() == pytest.approx(expected[2], rel=1e-6)

    class Recorder:
        def __init__(self):
            self.losses = []

        def step(self, loss):
            self.losses.append(loss.item())

    def pushed(**penalties):
        """The losses of two steps that change nothing; the actor has every second one."""
        critic, actor = Recorder(), Recorder()
        for target in (ours.networks.target_critic, ours.networks.target_actor):
            target.follow = lambda: None
        for _ in range(2):
            ours.generator.set_state(state)
            ours.step(data, critic, actor, weights, **penalties)
        return critic.losses, actor.losses

    (critic, actor), (high_critic, high_actor) = (
        pushed(), pushed(critic_penalty=lambda: 100.0, actor_penalty=lambda: 1000.0),
    )  # fmt: skip
    assert len(critic) == len(high_critic) == 2
    assert len(actor) == len(high_actor) == 1
    assert np.array(high_critic) - 100.0 == pytest.approx(np.array(critic), rel=1e-5)
    assert np.array(high_actor) - 1000.0 == pytest.approx(np.array(actor), rel=1e-4)
