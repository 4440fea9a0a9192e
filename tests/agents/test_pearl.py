"""PEARL's update rule, its data, and its adaptation."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tianshou.data import Batch
from tianshou.utils.torch_utils import policy_within_training_step
from torch.nn import functional as F

from metarl_agents.algorithms.oracle import Oracle, OracleConfig
from metarl_agents.algorithms.pearl import PEARL, PEARLBatch, PEARLConfig
from metarl_agents.common.context import Context
from metarl_agents.networks.encoders import product_of_gaussians
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.collector import Schedule, Stage
from metarl_agents.replay.transitions import Transitions

OBS, A, Z, T, B, C = 4, 2, 3, 3, 5, 6
SMALL = {
    "hidden": (8, 8), "encoder_hidden": (8,), "latent_size": Z, "meta_batch": T, "batch_size": B,
    "context_batch": C, "updates_per_iteration": 1, "reward_scale": 3.0, "kl_weight": 0.2,
    "mean_penalty": 0.01, "log_std_penalty": 0.02, "tau": 0.1, "gamma": 0.9,
    "learning_rate": 1e-2,
}  # fmt: skip


def box(size):
    return Box(-1.0, 1.0, (size,), np.float32)


def make_pearl(seed=0, **changes):
    return PEARL.from_config(
        PEARLConfig(**(SMALL | changes)),
        Context(
            observation_space=box(OBS),
            action_space=box(A),
            task_space=box(1),
            num_tasks=7,
            seed=seed,
            device=torch.device("cpu"),
        ),
    )


def make_data(dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)  # noqa: E731
    transitions = Transitions(
        randn(T, B, OBS), randn(T, B, A).tanh(), randn(T, B),
        (torch.rand(T, B, generator=g) < 0.3).to(dtype), randn(T, B, OBS),
    )  # fmt: skip
    return PEARLBatch(randn(T, C, OBS + A + 1), transitions)


class PlainPEARL:
    """The update written out again, on bare weight lists, with one optimiser per network."""

    def __init__(self, pearl):
        self.config = pearl.config
        networks = pearl.networks
        modules = {
            "encoder": pearl.policy.encoder.network, "actor": pearl.policy.actor.network,
            "q1": networks.critics.first, "q2": networks.critics.second,
            "v": networks.value, "v_target": networks.target_value.network,
        }  # fmt: skip
        self.weights = {
            name: [p.detach().clone().requires_grad_(name != "v_target") for p in m.parameters()]
            for name, m in modules.items()
        }
        self.optimisers = {
            name: torch.optim.Adam(weights, lr=self.config.learning_rate)
            for name, weights in self.weights.items()
            if name != "v_target"
        }

    def net(self, name, x):
        weights = self.weights[name]
        for i in range(0, len(weights), 2):
            x = x @ weights[i].T + weights[i + 1]
            if i + 2 < len(weights):
                x = x.clamp(min=0)
        return x

    def step(self, data, z_noise, a_noise):
        c, t = self.config, data.transitions
        raw = self.net("encoder", data.context)
        mu, s2 = raw[..., :Z], F.softplus(raw[..., Z:]).clamp(min=1e-7)
        var = 1 / (1 / s2).sum(1)
        mean = var * (mu / s2).sum(1)
        z = mean + var.sqrt() * z_noise
        kl = sum(
            0.5 * (var[i, j] + mean[i, j] ** 2 - 1 - var[i, j].log()) for i in range(T) for j in range(Z)
        )
        tiled = torch.stack([z[i] for i in range(T) for _ in range(B)])
        s, a, s_next = (x.reshape(T * B, -1) for x in (t.obs, t.act, t.obs_next))
        r, d = t.reward.reshape(-1, 1), t.terminated.reshape(-1, 1)
        with torch.no_grad():
            v_next = self.net("v_target", torch.cat([s_next, tiled], 1))
            y = c.reward_scale * r + c.gamma * (1 - d) * v_next
        q = [self.net(n, torch.cat([s, tiled, a], 1)) for n in ("q1", "q2")]
        q_loss = ((q[0] - y) ** 2).mean() + ((q[1] - y) ** 2).mean()
        for name in ("q1", "q2", "encoder"):
            self.optimisers[name].zero_grad()
        (c.kl_weight * kl).backward(retain_graph=True)
        q_loss.backward()
        for name in ("q1", "q2", "encoder"):
            self.optimisers[name].step()

        x = torch.cat([s, tiled.detach()], 1)
        out = self.net("actor", x)
        m, log_std = out[:, :A], out[:, A:].clamp(-20, 2)
        u = m + log_std.exp() * a_noise
        new_a = torch.tanh(u)
        normal = torch.distributions.Normal(m, log_std.exp())
        log_pi = (normal.log_prob(u) - torch.log(1 - new_a**2)).sum(1, keepdim=True)
        min_q = torch.minimum(*(self.net(n, torch.cat([x, new_a], 1)) for n in ("q1", "q2")))
        v_loss = ((self.net("v", x) - (min_q - log_pi).detach()) ** 2).mean()
        actor_loss = (log_pi - min_q).mean()
        actor_loss = actor_loss + c.mean_penalty * (m**2).mean()
        actor_loss = actor_loss + c.log_std_penalty * (log_std**2).mean()
        for name, loss in (("v", v_loss), ("actor", actor_loss)):
            self.optimisers[name].zero_grad()
            loss.backward()
            self.optimisers[name].step()
            if name == "v":
                for target, source in zip(self.weights["v_target"], self.weights["v"], strict=True):
                    target.data = (1 - c.tau) * target + c.tau * source.detach()
        return {"critic_loss": q_loss, "value_loss": v_loss, "actor_loss": actor_loss, "kl": kl}


def test_update_equals_a_plain_reimplementation_in_double_precision():
    pearl, data = make_pearl().double(), make_data()
    plain = PlainPEARL(pearl)
    noise = torch.Generator()
    noise.set_state(pearl.generator.get_state())
    for _ in range(4):
        z_noise = torch.randn(T, Z, generator=noise)
        a_noise = torch.randn(T * B, A, generator=noise)
        expected = plain.step(data, z_noise.double(), a_noise.double())
        losses = pearl.gradient_step(data)
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=1e-7)
    for mine, theirs in (
        (pearl.policy.encoder.network, "encoder"), (pearl.policy.actor.network, "actor"),
        (pearl.networks.critics.first, "q1"), (pearl.networks.critics.second, "q2"),
        (pearl.networks.value, "v"), (pearl.networks.target_value.network, "v_target"),
    ):  # fmt: skip
        for a, b in zip(mine.parameters(), plain.weights[theirs], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_encoder_learns_from_the_critics_and_the_kl_only():
    pearl, data = make_pearl().double(), make_data()
    arrivals = []
    for parameter in pearl.policy.encoder.parameters():
        parameter.register_hook(lambda g: arrivals.append(g))
    before = copy.deepcopy(pearl.policy.encoder.state_dict())
    pearl.gradient_step(data)
    # One backward pass reaches the encoder; those of value network and actor do not.
    assert len(arrivals) == len(list(pearl.policy.encoder.parameters()))
    assert any(not torch.equal(v, before[k]) for k, v in pearl.policy.encoder.state_dict().items())

    # Without the critics' share the KL term is all there is, and without it nothing is.
    kl_only = make_pearl(kl_weight=0.0).double()
    flat = data._replace(transitions=data.transitions._replace(reward=torch.zeros(T, B).double()))
    with torch.no_grad():
        for net in (kl_only.networks.critics.first, kl_only.networks.critics.second):
            net[0].weight[:, OBS : OBS + Z] = 0.0  # the critics cannot see z
    kl_only.gradient_step(flat)
    for parameter in kl_only.policy.encoder.parameters():
        assert parameter.grad.abs().max() == 0.0


def test_kl_weight_depends_on_the_number_of_tasks():
    pearl, data = make_pearl().double(), make_data()
    noise = pearl.generator.get_state()
    once = pearl.gradient_step(data)["kl"]
    pearl = make_pearl().double()
    pearl.generator.set_state(noise)
    doubled = PEARLBatch(
        data.context.repeat(2, 1, 1),
        Transitions(*(x.repeat(2, *[1] * (x.dim() - 1)) for x in data.transitions)),
    )
    torch.testing.assert_close(pearl.gradient_step(doubled)["kl"], 2 * once)


def filled_buffer():
    buffer = TaskReplayBuffer(7, 40, OBS, A, generator=np.random.default_rng(0), info_keys=("dense",))
    g = np.random.default_rng(1)
    data = {
        "obs": g.normal(size=(7, 10, OBS)), "act": g.uniform(-1, 1, (7, 10, A)),
        "rew": g.normal(size=(7, 10)), "obs_next": g.normal(size=(7, 10, OBS)),
        "dense": 50 + g.normal(size=(7, 10)),
        "terminated": np.zeros((7, 10), bool), "truncated": np.arange(10) == np.full((7, 1), 9),
    }  # fmt: skip
    buffer.add_episodes(np.arange(7), np.full(7, 10), data, to_context=True)
    return buffer


def test_training_reward_is_the_losses_reward_and_the_encoder_sees_the_environments():
    pearl, buffer = make_pearl(training_reward="dense"), filled_buffer()
    data = pearl.draw_from(buffer, np.array([0, 3, 5]), B)
    assert data.transitions.reward.shape == (T, B)
    assert (data.transitions.reward > 40).all()
    assert data.context.shape == (T, C, OBS + A + 1)
    assert (data.context[..., -1] < 40).all()
    assert data.context.dtype == data.transitions.obs.dtype == torch.float32


def test_update_needs_a_training_step_a_task_buffer_and_a_size():
    pearl, buffer = make_pearl(), filled_buffer()
    with pytest.raises(RuntimeError, match="outside a training step"):
        pearl.update(buffer=buffer, sample_size=B)
    with policy_within_training_step(pearl.policy):
        stats = pearl.update(buffer=buffer, sample_size=B)
        assert set(stats.get_loss_stats_dict()) == set(PEARL.loss_names)
        assert stats.train_time > 0
        with pytest.raises(ValueError, match="sample_size"):
            pearl.update(buffer=buffer, sample_size=0)
        with pytest.raises(TypeError, match="TaskReplayBuffer"):
            pearl.update(buffer=[], sample_size=B)


@pytest.mark.parametrize(
    ("algorithm", "config"),
    [(PEARL, PEARLConfig(**SMALL)), (Oracle, OracleConfig(hidden=(8,), updates_per_iteration=1))],
)
def test_same_seed_same_weights(algorithm, config):
    states = []
    for seed in (4, 4, 5):
        context = Context(
            observation_space=box(OBS),
            action_space=box(A),
            task_space=box(1),
            num_tasks=7,
            seed=seed,
            device=torch.device("cpu"),
        )
        agent = algorithm.from_config(config, context)
        buffer = filled_buffer()
        with policy_within_training_step(agent.policy):
            for _ in range(3):
                agent.update(buffer=buffer, sample_size=B)
        states.append(agent.network_state())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_rollouts_draw_one_latent_each():
    pearl, buffer = make_pearl(), filled_buffer()
    policy = pearl.policy
    policy.begin_rollouts(np.array([1, 1, 2]), "prior", buffer)
    assert policy.latent_RZ.shape == (3, Z)
    assert len(policy.latent_RZ.unique(dim=0)) == 3
    state = policy.generator.get_state()
    with buffer.drawing_from(np.random.default_rng(5)):
        policy.begin_rollouts(np.array([1, 1, 2]), "posterior", buffer)
    # The posterior of the context that the same generators draw, with the same noise.
    policy.generator.set_state(state)
    noise = policy.sample_prior(3)
    with buffer.drawing_from(np.random.default_rng(5)):
        context = policy.draw_context(buffer, np.array([1, 1, 2]))
    mean, variance = product_of_gaussians(*policy.encoder(context))
    assert torch.allclose(policy.latent_RZ, (mean + variance.sqrt() * noise).detach())
    assert not torch.allclose(policy.latent_RZ, noise)
    observations = torch.zeros(3, OBS)
    rows = np.array([2, 0])
    everything = policy.act(observations, None, deterministic=True)
    assert torch.equal(policy.act(observations[:2], rows, deterministic=True), everything[rows])
    batch = Batch(obs=np.zeros((2, OBS)), info=Batch(env_id=rows))
    assert torch.equal(policy(batch).act, everything[rows])
    with pytest.raises(ValueError, match="'prior' or 'posterior'"):
        policy.begin_rollouts(np.array([0]), "task", buffer)


def test_schedule_is_the_papers():
    config = PEARLConfig(prior_steps=400, posterior_steps=0, extra_posterior_steps=600)
    assert PEARL.schedule(config) == Schedule(
        initial=(Stage(2000, "prior", True),),
        iteration=(Stage(400, "prior", True), Stage(600, "posterior", False, first="prior")),
    )
    sparse = PEARL.schedule(PEARLConfig(posterior_steps=900, extra_posterior_steps=0)).iteration[1]
    assert sparse == Stage(900, "posterior", True, first="prior", one_at_a_time=True)


def run_episode(agent, data, active):
    for step in range(data["obs"].shape[1]):
        agent.act(data["obs"][:, step].astype(np.float32))
        agent.observe(
            SimpleNamespace(
                observation=data["obs"][:, step],
                action=data["act"][:, step],
                reward=data["rew"][:, step],
                next_observation=data["obs_next"][:, step],
                active=active[:, step],
            )
        )
    agent.end_episode()


def test_adaptation_uses_all_active_transitions_of_the_trial():
    pearl = make_pearl()
    g = np.random.default_rng(0)
    episodes = [
        {
            "obs": g.normal(size=(2, 4, OBS)),
            "act": g.normal(size=(2, 4, A)),
            "rew": g.normal(size=(2, 4)),
            "obs_next": g.normal(size=(2, 4, OBS)),
        }
        for _ in range(2)
    ]
    active = np.ones((2, 4), bool)
    active[1, 2:] = False
    agent = pearl.trial_agent()
    trial = SimpleNamespace(num_tasks=2, adaptation_episodes=2, deterministic=True, seed=3)
    agent.begin_trial(trial)
    first = agent.policy.latent_RZ.clone()
    run_episode(agent, episodes[0], active)
    second = agent.policy.latent_RZ.clone()
    assert not torch.equal(first, second)  # resampled from the prior
    generator = torch.Generator()
    generator.set_state(agent.policy.generator.get_state())
    run_episode(agent, episodes[1], np.ones((2, 4), bool))
    noise = torch.randn(2, Z, generator=generator)
    for task in range(2):
        keep = [active[task], np.ones(4, bool)]
        rows = [
            np.concatenate([e["obs"], e["act"], e["rew"][..., None]], -1)[task, k]
            for e, k in zip(episodes, keep, strict=True)
        ]
        context = torch.tensor(np.concatenate(rows), dtype=torch.float32)
        mean, variance = product_of_gaussians(*pearl.policy.encoder(context))
        torch.testing.assert_close(
            agent.policy.latent_RZ[task], (mean + variance.sqrt() * noise[task]).detach()
        )
    # A new trial forgets, and repeats itself under the same seed.
    agent.begin_trial(trial)
    assert torch.equal(agent.policy.latent_RZ, first)
    # With one episode on the prior, the second already acts on the posterior.
    sooner = make_pearl(prior_episodes=1).trial_agent()
    sooner.begin_trial(trial)
    assert torch.equal(sooner.policy.latent_RZ, first)
    run_episode(sooner, episodes[0], active)
    context = [np.concatenate([episodes[0][k] for k in ("obs", "act")] + [episodes[0]["rew"][..., None]], -1)]
    mean, variance = product_of_gaussians(
        *pearl.policy.encoder(torch.tensor(context[0][0], dtype=torch.float32))
    )
    deviation = (sooner.policy.latent_RZ[0] - mean) / variance.sqrt()
    torch.testing.assert_close(second[0], deviation.detach())  # the same noise
    # Never more than the trial has before its scored episodes.
    many = make_pearl(prior_episodes=5).trial_agent()
    many.begin_trial(trial)
    assert many.prior_episodes == 2
    actions = agent.act(np.zeros((2, OBS), np.float32))
    assert actions.shape == (2, A)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1
