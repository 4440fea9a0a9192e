"""CRL's heads and adapter, its update rule, and its adaptation."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_pearl import (
    OBS,
    SMALL,
    A,
    B,
    PlainPEARL,
    T,
    Z,
    box,
    filled_buffer,
    make_data,
    make_pearl,
    run_episode,
)
from test_run import tiny
from tianshou.utils.torch_utils import policy_within_training_step

from metarl_agents import evaluate_run, load_agent
from metarl_agents.algorithms.crl import CRL, CRLBatch, CRLConfig
from metarl_agents.common.context import Context
from metarl_agents.common.seeding import torch_stream
from metarl_agents.networks.encoders import product_of_gaussians
from metarl_agents.networks.heads import MIN_SCALE, Heads, MultiHeadActor, Standard

K, J, E = 7, 2 * OBS + A + 1, 4
TASKS = [2, 0, 2]  # of one batch: one twice, five not at all


def make_crl(seed=0, **changes):
    extra = {"adapter_hidden": (6,), "adapter_batch": E, "adapter_learning_rate": 3e-3}
    return CRL.from_config(
        CRLConfig(**(SMALL | extra | changes)),
        Context(
            observation_space=box(OBS),
            action_space=box(A),
            task_space=box(1),
            num_tasks=K,
            seed=seed,
            device=torch.device("cpu"),
        ),
    )


def make_crl_data():
    evidence = torch.randn(T, E, J, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return CRLBatch(*make_data(), torch.tensor(TASKS), evidence)


def scatter_heads(crl, size=0.3):
    """Makes the heads differ, which fresh ones do not."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for heads in (crl.policy.actor.head_weight, crl.policy.actor.head_bias):
            heads += size * torch.randn(heads.shape, generator=g)
    return crl


# -- heads ------------------------------------------------------------------------------------------


def test_heads_equal_a_loop_over_tasks():
    crl = scatter_heads(make_crl()).double()
    actor = crl.policy.actor
    x = torch.randn(T * B, OBS + Z, dtype=torch.float64)
    mean, log_std = actor(x, actor.heads(torch.tensor(TASKS)))
    for row in range(T * B):
        task = TASKS[row // B]
        features = actor.network(x[row])
        output = actor.head_weight[task] @ features + actor.head_bias[task]
        torch.testing.assert_close(mean[row], output[:A])
        torch.testing.assert_close(log_std[row], output[A:].clamp(-20, 2))
    # Without heads it is the mean head for all rows.
    mean, _ = actor(x)
    weight, bias = actor.head_weight.mean(0), actor.head_bias.mean(0)
    torch.testing.assert_close(mean, (actor.network(x) @ weight.T + bias)[:, :A])


def test_heads_survive_flattening():
    heads = scatter_heads(make_crl()).policy.actor.heads()
    flat = heads.flat()
    assert flat.shape == (K, 2 * A * (8 + 1))
    # The order is that of Algorithm 1: flattened weights, then biases.
    assert torch.equal(flat[3], torch.cat((heads.weight[3].flatten(), heads.bias[3])))
    back = heads.like(flat)
    assert isinstance(back, Heads)
    assert torch.equal(back.weight, heads.weight)
    assert torch.equal(back.bias, heads.bias)


def test_fresh_weights_are_pearls_with_equal_heads():
    crl, pearl = make_crl(), make_pearl()
    for mine, its in (
        (crl.policy.actor.network, pearl.policy.actor.network[:-1]),
        (crl.policy.encoder, pearl.policy.encoder),
        (crl.networks, pearl.networks),
    ):
        for a, b in zip(mine.parameters(), its.parameters(), strict=True):
            assert torch.equal(a, b)
    last = pearl.policy.actor.network[-1]
    assert (crl.policy.actor.head_weight == last.weight).all()
    assert (crl.policy.actor.head_bias == last.bias).all()
    assert last.weight.abs().max() <= 1e-3
    # Fresh heads leave nothing to predict, and predictions change nothing then.
    standard = Standard.of(crl.policy.actor.heads().flat())
    assert standard.scale == MIN_SCALE
    torch.testing.assert_close(standard.mean[0], torch.cat((last.weight.flatten(), last.bias)))


def test_a_head_learns_from_its_own_tasks_rows_only():
    crl, data = scatter_heads(make_crl()).double(), make_crl_data()
    actor = crl.policy.actor
    crl.gradient_step(data)
    for heads in (actor.head_weight, actor.head_bias):
        drawn = heads.grad.flatten(1).abs().amax(1) > 0
        assert drawn.tolist() == [k in TASKS for k in range(K)]

    # The head of task 0 gets the gradient of its B rows alone, here rows B to 2 B.
    state = torch.randn(T * B, OBS + Z, dtype=torch.float64)
    noise = crl.generator.get_state()

    def gradient(rows):
        crl.generator.set_state(noise)
        action, log_prob, mean, log_std = crl.actor_sample(state, data)
        loss = (action.sum(-1) - log_prob + mean.square().sum(-1) + log_std.square().sum(-1))[rows].sum()
        return torch.autograd.grad(loss, actor.head_weight)[0]

    everything = gradient(slice(None))
    torch.testing.assert_close(gradient(slice(B, 2 * B))[0], everything[0])
    torch.testing.assert_close(gradient(np.r_[0:B, 2 * B : 3 * B])[2], everything[2])
    assert not gradient(np.r_[0:B, 2 * B : 3 * B])[0].any()


# -- adapter ----------------------------------------------------------------------------------------


def test_the_adapters_loss_reaches_the_adapter_only():
    crl, data = scatter_heads(make_crl()).double(), make_crl_data()
    loss, _ = crl.adapter_loss(data)
    loss.backward()
    for name, parameter in [*crl.policy.named_parameters(), *crl.networks.named_parameters()]:
        assert (parameter.grad is not None) == name.startswith("adapter."), name


def test_the_adapters_loss_is_one_for_the_mean_head():
    crl = scatter_heads(make_crl()).double()
    with torch.no_grad():
        crl.policy.adapter.last.weight.zero_()  # predicts a deviation of 0 for every transition
    evidence = torch.randn(K, E, J, dtype=torch.float64)
    data = make_crl_data()._replace(tasks=torch.arange(K), evidence=evidence)
    loss, standard = crl.adapter_loss(data)
    torch.testing.assert_close(loss, torch.ones((), dtype=torch.float64))
    flat = crl.policy.actor.heads().flat().detach()
    torch.testing.assert_close(standard.scale, flat.std(0, correction=0).square().mean().sqrt())


def test_the_adapter_can_tell_tasks_apart():
    crl = scatter_heads(make_crl(adapter_hidden=(32,), adapter_learning_rate=1e-2)).double()
    # Each task's transitions are one fixed vector and some noise.
    g = torch.Generator().manual_seed(3)
    marks = torch.randn(K, 1, J, generator=g, dtype=torch.float64)
    evidence = marks + 0.1 * torch.randn(K, E, J, generator=g, dtype=torch.float64)
    data = make_crl_data()._replace(tasks=torch.arange(K), evidence=evidence)
    for _ in range(400):
        loss, _ = crl.adapter_loss(data)
        crl.adapter_optim.step(loss)
    assert loss < 0.05


# -- update -----------------------------------------------------------------------------------------


class PlainCRL(PlainPEARL):
    """PEARL's plain update with the actor's last layer chosen row by row, and the adapter's step."""

    def __init__(self, crl):
        super().__init__(crl)
        policy = crl.policy
        self.heads = [
            p.detach().clone().requires_grad_() for p in (policy.actor.head_weight, policy.actor.head_bias)
        ]
        self.optimisers["actor"] = torch.optim.Adam(
            [*self.weights["actor"], *self.heads], lr=self.config.learning_rate
        )
        self.weights["adapter"] = [p.detach().clone().requires_grad_() for p in policy.adapter.parameters()]
        self.optimisers["adapter"] = torch.optim.Adam(
            self.weights["adapter"], lr=self.config.adapter_learning_rate
        )

    def net(self, name, x):
        if name != "actor":
            return super().net(name, x)
        features = super().net(name, x).clamp(min=0)
        weight, bias = self.heads
        return torch.stack(
            [weight[TASKS[i // B]] @ row + bias[TASKS[i // B]] for i, row in enumerate(features)]
        )

    def step(self, data, z_noise, a_noise):
        losses = super().step(data, z_noise, a_noise)
        flat = [torch.cat([w.flatten(), b]) for w, b in zip(*(h.detach() for h in self.heads), strict=True)]
        mean = sum(flat) / K
        scale = max((sum(((h - mean) ** 2).sum() for h in flat) / (K * len(mean))) ** 0.5, 1e-6)
        loss = 0
        for i, task in enumerate(TASKS):
            for j in range(E):
                prediction = self.net("adapter", data.evidence[i, j][None])[0]
                loss = loss + ((prediction - (flat[task] - mean) / scale) ** 2).mean() / (T * E)
        self.optimisers["adapter"].zero_grad()
        loss.backward()
        self.optimisers["adapter"].step()
        return losses | {"adapter_loss": loss, "head_scale": scale}


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_update_equals_a_plain_reimplementation_in_double_precision(spread):
    crl, data = scatter_heads(make_crl(), spread).double(), make_crl_data()
    plain = PlainCRL(crl)
    noise = torch.Generator()
    noise.set_state(crl.generator.get_state())
    for _ in range(4):
        z_noise = torch.randn(T, Z, generator=noise)
        a_noise = torch.randn(T * B, A, generator=noise)
        expected = plain.step(data, z_noise.double(), a_noise.double())
        losses = crl.gradient_step(data)
        assert set(losses) == set(CRL.loss_names)
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=1e-7)
    actor, networks = crl.policy.actor, crl.networks
    for mine, theirs in (
        (crl.policy.encoder.network, "encoder"), (actor.network, "actor"),
        (crl.policy.adapter, "adapter"), (networks.critics.first, "q1"),
        (networks.critics.second, "q2"), (networks.value, "v"),
        (networks.target_value.network, "v_target"),
    ):  # fmt: skip
        for a, b in zip(mine.parameters(), plain.weights[theirs], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip((actor.head_weight, actor.head_bias), plain.heads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    # Five heads were never drawn.
    assert len(actor.head_weight.flatten(1).unique(dim=0)) == (3 if spread == 0 else K)


def test_the_adapter_sees_the_environments_reward_and_the_next_observation():
    crl, pearl = make_crl(training_reward="dense"), make_pearl(training_reward="dense")
    tasks = np.array([0, 3, 5])
    data, its = crl.draw_from(filled_buffer(), tasks, B), pearl.draw_from(filled_buffer(), tasks, B)
    # The draws are PEARL's.
    assert torch.equal(data.context, its.context)
    assert all(torch.equal(a, b) for a, b in zip(data.transitions, its.transitions, strict=True))
    assert data.tasks.tolist() == [0, 3, 5]
    assert data.evidence.shape == (T, E, J)
    assert data.evidence.dtype == torch.float32
    obs, act, reward, obs_next = data.evidence.split((OBS, A, 1, OBS), -1)
    assert torch.equal(obs, data.transitions.obs[:, :E])
    assert torch.equal(act, data.transitions.act[:, :E])
    assert torch.equal(obs_next, data.transitions.obs_next[:, :E])
    assert (reward < 40).all()
    assert (data.transitions.reward > 40).all()


def test_same_seed_same_weights():
    states = []
    for seed in (4, 4, 5):
        crl, buffer = make_crl(seed), filled_buffer()
        with policy_within_training_step(crl.policy):
            for _ in range(3):
                stats = crl.update(buffer=buffer, sample_size=B)
        assert set(stats.get_loss_stats_dict()) == set(CRL.loss_names)
        states.append(crl.network_state())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])
    assert {"policy.actor.head_weight", "policy.adapter.last.weight"} <= set(states[0])


# -- acting and adapting ----------------------------------------------------------------------------


def test_rollouts_act_with_the_heads_of_their_tasks():
    crl = scatter_heads(make_crl())
    policy, actor = crl.policy, crl.policy.actor
    tasks = np.array([1, 1, 2])
    policy.begin_rollouts(tasks, "prior", filled_buffer())
    observations = torch.randn(3, OBS)
    actions = policy.act(observations, None, deterministic=True)
    for row, task in enumerate(tasks):
        features = actor.network(torch.cat((observations[row], policy.latent_RZ[row])))
        output = actor.head_weight[task] @ features + actor.head_bias[task]
        torch.testing.assert_close(actions[row], torch.tanh(output[:A]).detach())
    rows = np.array([2, 0])
    torch.testing.assert_close(policy.act(observations[rows], rows, deterministic=True), actions[rows])
    # What was decided for the rollouts travels to other processes.
    other = scatter_heads(make_crl()).policy
    other.prepare(policy.prepared(), 3)
    torch.testing.assert_close(other.act(observations, None, deterministic=True), actions)
    policy.begin_rollouts(tasks, "posterior", filled_buffer())
    assert policy.heads_R.weight.shape == (3, 2 * A, 8)
    with pytest.raises(ValueError, match="'prior' or 'posterior'"):
        policy.begin_rollouts(tasks, "task", filled_buffer())


def test_adaptation_predicts_heads_from_the_active_transitions_of_the_trial():
    crl = scatter_heads(make_crl())
    policy, flat = crl.policy, crl.policy.actor.heads().flat().detach()
    mean, scale = flat.mean(0), flat.std(0, correction=0).square().mean().sqrt()
    g = np.random.default_rng(0)
    shapes = {"obs": (2, 4, OBS), "act": (2, 4, A), "rew": (2, 4), "obs_next": (2, 4, OBS)}
    episodes = [{key: g.normal(size=shape) for key, shape in shapes.items()} for _ in range(2)]
    active = [np.ones((2, 4), bool), np.ones((2, 4), bool)]
    active[0][1, 2:] = False
    active[1][1, 1:] = False
    agent = crl.trial_agent()
    trial = SimpleNamespace(num_tasks=2, adaptation_episodes=2, deterministic=True, seed=3)
    agent.begin_trial(trial)

    # The first episode: z from the prior, and the mean head.
    prior = torch.randn(2, Z, generator=torch_stream(3, "trial"))
    assert torch.equal(policy.latent_RZ, prior)
    first = agent.act(episodes[0]["obs"][:, 0].astype(np.float32))
    for task in range(2):
        torch.testing.assert_close(policy.heads_R.flat()[task], mean)

    # Each later one, the second included: posterior and prediction from everything active so far.
    for done in (1, 2):
        generator = torch.Generator()
        generator.set_state(policy.generator.get_state())
        run_episode(agent, episodes[done - 1], active[done - 1])
        noise = torch.randn(2, Z, generator=generator)
        for task in range(2):
            rows = torch.tensor(
                np.concatenate(
                    [
                        np.concatenate([e["obs"], e["act"], e["rew"][..., None], e["obs_next"]], -1)[
                            task, a[task]
                        ]
                        for e, a in zip(episodes[:done], active[:done], strict=True)
                    ]
                ),
                dtype=torch.float32,
            )
            assert len(rows) == (4 * done if task == 0 else (2, 3)[done - 1])
            predicted = mean + scale * policy.adapter(rows).mean(0)
            torch.testing.assert_close(policy.heads_R.flat()[task], predicted.detach())
            assert not torch.allclose(predicted, mean)
            m, variance = product_of_gaussians(*policy.encoder(rows[:, : OBS + A + 1]))
            torch.testing.assert_close(policy.latent_RZ[task], (m + variance.sqrt() * noise[task]).detach())
    # A new trial forgets, and repeats itself under the same seed.
    agent.begin_trial(trial)
    assert np.array_equal(agent.act(episodes[0]["obs"][:, 0].astype(np.float32)), first)
    run_episode(agent, episodes[1], active[1])
    assert agent.count_T1.flatten().tolist() == [4, 1]


def test_predictions_are_harmless_while_heads_are_equal():
    crl = make_crl()
    agent = crl.trial_agent()
    agent.begin_trial(SimpleNamespace(num_tasks=2, adaptation_episodes=2, deterministic=True, seed=3))
    before = agent.policy.heads_R.flat()
    g = np.random.default_rng(0)
    shapes = {"obs": (2, 4, OBS), "act": (2, 4, A), "rew": (2, 4), "obs_next": (2, 4, OBS)}
    run_episode(agent, {k: g.normal(size=s) for k, s in shapes.items()}, np.ones((2, 4), bool))
    assert (agent.policy.heads_R.flat() - before).abs().max() < 1e-6


# -- a run ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_run_trains_and_is_evaluated(tmp_path):
    # Resuming one is in test_run.py, with every other agent's.
    run = tmp_path / "run"
    assert tiny(run, "crl", steps=80 * 20 + 2 * 180).finished
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {f"update/{name}" for name in CRL.loss_names} <= set(record)
    agent = load_agent(run)
    # One head per training task of MetaPoint-Goal-v0: two outputs for each of two actions.
    assert isinstance(agent.policy.actor, MultiHeadActor)
    assert agent.policy.actor.head_weight.shape == (80, 4, 16)
    report = evaluate_run(run, references=False)
    assert report.returns.shape == (1, 20, 3)
    assert np.isfinite(report.returns).all()
    assert np.array_equal(evaluate_run(run, references=False).returns, report.returns)
