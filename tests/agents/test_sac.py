"""SAC's update against one written out in double precision."""

import copy

import numpy as np
import pytest
import torch
from builders import ACT, OBS, build, filled_buffer
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from metarl_agents.algorithms.sac import SAC, SACConfig
from metarl_agents.replay.collector import Schedule, Stage
from metarl_agents.replay.transitions import Transitions

SMALL = {
    "hidden": (8, 8), "updates_per_iteration": 1, "learning_rate": 1e-2, "tau": 0.1, "gamma": 0.9,
    "initial_temperature": 0.3, "target_entropy_per_action": -0.5,
}  # fmt: skip
B = 9


def test_the_update_equals_one_written_out_in_double_precision():
    ours = build(SAC, SACConfig(**SMALL)).double()
    config = ours.config
    actor, critics = copy.deepcopy(ours.policy.actor.network), copy.deepcopy(ours.critics)
    slow, log_alpha = copy.deepcopy(ours.critics), copy.deepcopy(ours.temperature.log)
    modules = (critics.parameters(), actor.parameters(), [log_alpha])
    optims = [torch.optim.Adam(parameters, config.learning_rate) for parameters in modules]

    def sample(obs, noise):
        mean, log_std = actor(obs).chunk(2, -1)
        base = Independent(Normal(mean, log_std.clamp(-20, 2).exp()), 1)
        action = torch.tanh(mean + log_std.clamp(-20, 2).exp() * noise)
        squashed = TransformedDistribution(base, TanhTransform(cache_size=1))
        return action, squashed.log_prob(action)

    def step(optim, loss):
        optim.zero_grad()
        loss.backward()
        optim.step()

    def minimum(nets, obs, act):
        inputs = torch.cat((obs, act), -1)
        return torch.min(nets.first(inputs), nets.second(inputs))[:, 0]

    for call in range(4):
        g = torch.Generator().manual_seed(call)
        randn = lambda *shape, g=g: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
        d = Transitions(
            randn(B, OBS), randn(B, ACT).tanh(), randn(B), (randn(B) > 0.5).double(), randn(B, OBS)
        )
        state = ours.generator.get_state()
        noises = [torch.randn(B, ACT, generator=ours.generator).double() for _ in range(2)]
        ours.generator.set_state(state)
        losses = ours.gradient_step(d)

        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            action, log_prob = sample(d.obs_next, noises[0])
            soft = minimum(slow, d.obs_next, action) - alpha * log_prob
            target = d.reward + config.gamma * (1 - d.terminated) * soft
        inputs = torch.cat((d.obs, d.act), -1)
        critic_loss = sum(
            ((net(inputs)[:, 0] - target) ** 2).mean() for net in (critics.first, critics.second)
        )
        step(optims[0], critic_loss)
        action, log_prob = sample(d.obs, noises[1])
        actor_loss = (alpha * log_prob - minimum(critics, d.obs, action)).mean()
        step(optims[1], actor_loss)
        # The temperature rises where the entropy is below its target.
        wanted = config.target_entropy_per_action * ACT
        step(optims[2], (log_alpha * (-log_prob.detach() - wanted)).mean())
        with torch.no_grad():
            for a, b in zip(slow.parameters(), critics.parameters(), strict=True):
                a += config.tau * (b - a)
        measured = {name: value.item() for name, value in losses.items()}
        assert measured["critic_loss"] == pytest.approx(critic_loss.item(), rel=1e-6)
        assert measured["actor_loss"] == pytest.approx(actor_loss.item(), rel=1e-6)
        assert measured["temperature"] == pytest.approx(alpha.item(), rel=1e-9)
        assert measured["entropy"] == pytest.approx(-log_prob.mean().item(), rel=1e-6)
    assert ours.temperature.log.item() == pytest.approx(log_alpha.item(), rel=1e-8)
    for mine, other in (
        (ours.policy.actor.network, actor),
        (ours.critics, critics),
        (ours.target_critics.network, slow),
    ):
        for a, b in zip(mine.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_schedule_batches_and_acting():
    config = SACConfig(**SMALL)
    assert SAC.schedule(config) == Schedule(
        initial=(Stage(2000, "random", False),), iteration=(Stage(1000, "exploring", False),)
    )
    agent, buffer = build(SAC, config), filled_buffer()
    assert agent.draw(buffer, 12).obs.shape == (12, OBS)
    observations = torch.zeros(500, OBS)
    agent.policy.begin_rollouts(np.arange(500), "random", buffer)
    actions = agent.policy.act(observations, None, deterministic=False)
    assert actions.std().item() == pytest.approx(3**-0.5, rel=0.1)
    agent.policy.begin_rollouts(np.arange(500), "exploring", buffer)
    mean, _ = agent.policy.actor(observations)
    assert torch.equal(agent.policy.act(observations, None, deterministic=True), torch.tanh(mean))
    with pytest.raises(ValueError, match="'random' or 'exploring'"):
        agent.policy.begin_rollouts(np.arange(2), "task", buffer)
