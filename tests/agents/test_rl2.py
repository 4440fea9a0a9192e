"""RL2: memory through trials, sequences, advantages and the loss, against plain loops."""

import numpy as np
import pytest
import torch
from builders import ACT, OBS, build
from torch import nn
from torch.distributions import Independent, Normal

import metarl_envs
from metarl_agents.algorithms.rl2 import RL2, RL2Config
from metarl_agents.common.config import ConfigError
from metarl_agents.common.context import Context
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.networks.functional import Gaussian
from metarl_agents.trials.episodes import Episodes
from metarl_agents.trials.recurrent import TrialSequences, trial_sequences
from metarl_envs import evaluation

TASKS, ROLLOUTS, EPISODES = 2, 3, 3


def plain_means(model, inputs_SI, detach_every=None):
    """Means (S, A) of one sequence from a zero state, cell by cell."""
    cells = {nn.GRU: nn.GRUCell, nn.LSTM: nn.LSTMCell}
    cell = cells[type(model.cell)](model.cell.input_size, model.cell.hidden_size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(cell, name, getattr(model.cell, f"{name}_l0"))
    state, means = None, []
    for step, x in enumerate(inputs_SI):
        if detach_every and state is not None and step % detach_every == 0:
            state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        state = cell(model.encoder(x)[None], state)
        means.append(model.head(state[0] if isinstance(state, tuple) else state)[0])
    return torch.stack(means)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_memory_lasts_for_a_trial_of_episodes_that_end_early(cell, monkeypatch):
    family = metarl_envs.family("MetaHopper-Params-v0")
    config = RL2Config(
        cell=cell, recurrent_size=12, hidden=(9,), episodes_per_trial=EPISODES, action_scale=2.0,
        tasks_per_iteration=TASKS, episodes_per_task=ROLLOUTS,
    )  # fmt: skip
    venv = metarl_envs.MetaVectorEnv(family, TASKS * ROLLOUTS, autoreset_mode="Disabled", num_threads=1)
    venv.reset(seed=3)
    algorithm = RL2.from_config(
        config,
        Context.of(venv, seed=0, device=torch.device("cpu")),
    )
    policy, model = algorithm.policy, algorithm.policy.model
    collector = algorithm.collector(
        config,
        GymVectorEnvAdapter(venv),
        tasks=family.tasks("train"),
        horizon=family.horizon,
        generator=np.random.default_rng(0),
        buffer=None,
    )
    collector.collect(n_step=1)
    acted, step = [], model.step
    monkeypatch.setattr(model, "step", lambda *call: (acted.append(step(*call)), acted[-1])[1])
    stats = collector.collect(n_step=1)  # the second one: nothing of the first may be left
    acted = [chosen.mean for chosen, _ in acted]
    assert set(stats.returns_by_conditioning) == {"first", "between", "last"}
    batches, means = list(policy.batches), iter(acted)
    assert len(batches) == EPISODES
    acted = [[next(means) for _ in range(batch.lengths.max())] for batch in batches]
    assert next(means, None) is None
    lengths = np.stack([batch.lengths for batch in batches])
    assert (lengths < family.horizon).all()
    assert all(len(np.unique(batch.lengths)) > 1 for batch in batches)
    trials = trial_sequences(
        batches,
        gamma=0.9,
        gae_lambda=0.9,
        per_episode=False,
        action_scale=2.0,
        device=policy.state_RK.device,
    )
    with torch.no_grad():
        trained, _ = policy.model(trials.inputs, policy.model.start(TASKS * ROLLOUTS))
    trained_log_prob = trained.log_prob(trials.act)
    forgetful = []
    for task in range(TASKS):
        for rollout in range(ROLLOUTS):
            row, inputs, expected, taken = task * ROLLOUTS + rollout, [], [], []
            last_act, last_reward = np.zeros(venv.single_action_space.shape), 0.0
            for number, batch in enumerate(batches):
                for step in range(lengths[number, task, rollout]):
                    flag = float(number > 0 and step == 0)
                    obs = batch.obs[task, rollout, step]
                    inputs.append(np.concatenate((obs, last_act, [last_reward, flag])))
                    taken.append(batch.act[task, rollout, step])
                    last_act = (batch.act[task, rollout, step] / 2).clip(-1, 1)
                    last_reward = batch.reward[task, rollout, step]
                    expected.append(acted[number][step][row])
            inputs = torch.tensor(np.array(inputs), dtype=torch.float32)
            taken, expected = torch.tensor(np.array(taken)), torch.stack(expected)
            steps = len(inputs)
            torch.testing.assert_close(trials.inputs[:steps, row], inputs)
            torch.testing.assert_close(trials.act[:steps, row], taken)
            assert (trials.weight[:steps, row] > 0).all()
            assert (trials.weight[steps:, row] == 0).all()
            assert (trials.advantage[steps:, row] == 0).all()
            with torch.no_grad():
                plain = plain_means(policy.model, inputs)
                second = lengths[0, task, rollout]
                forgetful.append((plain_means(policy.model, inputs[second:]) - plain[second:]).abs().max())
            torch.testing.assert_close(expected, plain, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(trained.mean[:steps, row], plain, rtol=1e-5, atol=1e-5)
            log_prob = Gaussian(expected, trained.log_std).log_prob(taken)
            ratio = (trained_log_prob[:steps, row] - log_prob).exp()
            torch.testing.assert_close(ratio, torch.ones(steps), rtol=0, atol=1e-5)
    assert min(forgetful) > 1e-3
    torch.testing.assert_close(trials.weight.sum(), torch.tensor(1.0))
    venv.close()


def episodes(seed, lengths, horizon=7):
    g = np.random.default_rng(seed)
    shape = (TASKS, ROLLOUTS, horizon)
    return Episodes(
        g.normal(size=(*shape, OBS)).astype(np.float32),
        g.normal(size=(*shape, ACT)).astype(np.float32),
        g.normal(size=shape),
        np.arange(horizon) < lengths[..., None],
    )


@pytest.mark.parametrize("per_episode", [False, True])
def test_advantages_run_on_through_a_trial_or_end_with_its_episodes(per_episode):
    lengths = np.random.default_rng(5).integers(2, 8, (EPISODES, TASKS, ROLLOUTS))
    batches = [episodes(k, lengths[k]) for k in range(EPISODES)]
    gamma, lam = 0.9, 0.8
    trials = trial_sequences(
        batches, gamma=gamma, gae_lambda=lam, per_episode=per_episode, device=torch.device("cpu")
    )
    for task in range(TASKS):
        # Stretches of steps through which returns run on, in the order of rollouts and episodes.
        stretches = []
        for rollout in range(ROLLOUTS):
            # The baseline sees what the cell sees.
            ends = lengths[:, task, rollout].cumsum()
            seen = np.split(trials.inputs[: ends[-1], task * ROLLOUTS + rollout].numpy(), ends[:-1])
            parts = [
                (inputs, b.reward[task, rollout, : len(inputs)])
                for b, inputs in zip(batches, seen, strict=True)
            ]
            stretches += parts if per_episode else [tuple(map(np.concatenate, zip(*parts, strict=True)))]
        features, targets = [], []
        for obs, reward in stretches:
            for t in range(len(obs)):
                o, clock = obs[t].astype(np.float64), t / 100
                features.append([*o, *o**2, clock, clock**2, clock**3, 1.0])
                targets.append(sum(gamma ** (k - t) * reward[k] for k in range(t, len(reward))))
        x, y = np.array(features), np.array(targets)
        values = iter(x @ np.linalg.solve(x.T @ x + 1e-5 * np.eye(x.shape[1]), x.T @ y))
        plain = []
        for _, reward in stretches:
            v = [next(values) for _ in reward] + [0.0]
            delta = [reward[t] + gamma * v[t + 1] - v[t] for t in range(len(reward))]
            plain += [
                sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(delta)))
                for t in range(len(delta))
            ]
        plain = (np.array(plain) - np.mean(plain)) / np.std(plain)
        counts = lengths[:, task].sum(0)
        rows = range(task * ROLLOUTS, (task + 1) * ROLLOUTS)
        measured = torch.cat([trials.advantage[:n, row] for n, row in zip(counts, rows, strict=True)])
        np.testing.assert_allclose(measured.numpy(), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("bptt_length", [3, 50])
def test_loss_and_gradient_against_a_plain_loop_in_double_precision(cell, bptt_length):
    config = RL2Config(cell=cell, recurrent_size=5, bptt_length=bptt_length, entropy_weight=0.1)
    algorithm = build(RL2, config)
    model = algorithm.policy.model.double()
    g = torch.Generator().manual_seed(0)
    steps, rows = 8, 4

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    lengths = torch.tensor([8, 5, 1, 7])
    valid = (torch.arange(steps)[:, None] < lengths).double()
    trials = TrialSequences(
        normal(steps, rows, OBS + ACT + 2), normal(steps, rows, ACT), normal(steps, rows), valid / valid.sum()
    )
    old = Gaussian(0.3 * normal(steps, rows, ACT), 0.1 * normal(ACT))
    old_log_prob = old.log_prob(trials.act)
    sums = {name: torch.zeros((), dtype=torch.float64) for name in ("surrogate", "policy_kl")}
    model.zero_grad()
    for loss in algorithm._losses(trials, old, old_log_prob, sums):
        loss.backward()
    measured = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    terms, divergences, entropies, clipped = [], [], [], 0
    for row in range(rows):
        means = plain_means(model, trials.inputs[: lengths[row], row], bptt_length)
        for t in range(lengths[row]):
            new = Independent(Normal(means[t], model.log_std.exp()), 1)
            before = Independent(Normal(old.mean[t, row], old.log_std.exp()), 1)
            ratio = (new.log_prob(trials.act[t, row]) - before.log_prob(trials.act[t, row])).exp()
            advantage = trials.advantage[t, row]
            clipped += not 0.8 < ratio < 1.2
            terms.append(-min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage))
            divergences.append(torch.distributions.kl_divergence(before, new))
            entropies.append(new.entropy())
    assert 0 < clipped < len(terms)
    surrogate = torch.stack(terms).mean()
    (surrogate - 0.1 * torch.stack(entropies).mean()).backward()
    torch.testing.assert_close(sums["surrogate"], surrogate.detach())
    torch.testing.assert_close(sums["policy_kl"], torch.stack(divergences).mean().detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(measured[name], parameter.grad, rtol=1e-9, atol=1e-12)


def test_an_update_takes_one_step_per_epoch_and_starts_from_the_policy_that_acted():
    algorithm = build(RL2, RL2Config(outer_steps=3, recurrent_size=8))
    policy = algorithm.policy
    policy.begin_trials(TASKS, ROLLOUTS)
    for seed in range(2):
        policy.take(episodes(seed, np.full((TASKS, ROLLOUTS), 7)))
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    losses = list(algorithm.outer_steps())
    assert len(losses) == 3
    assert all(set(entry) == set(RL2.loss_names) for entry in losses)
    # With a ratio of 1 everywhere the surrogate is the mean of standardised advantages.
    assert abs(losses[0]["surrogate"]) < 1e-6
    assert losses[0]["policy_kl"] < 1e-10 < losses[1]["policy_kl"]
    assert losses[2]["surrogate"] < losses[0]["surrogate"]
    assert all(not torch.equal(p, before[name]) for name, p in policy.model.named_parameters())


def test_an_update_sees_executed_actions_and_raw_advantages_where_configured():
    config = RL2Config(
        outer_steps=1, recurrent_size=8, action_scale=1.5, gae_lambda=0.5, standardise_advantages=False
    )
    algorithm = build(RL2, config)
    policy, seen = algorithm.policy, []
    policy.begin_trials(TASKS, ROLLOUTS)
    batch = episodes(0, np.full((TASKS, ROLLOUTS), 7))
    policy.take(batch)
    hook = policy.model.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    (losses,) = algorithm.outer_steps()
    hook.remove()
    given = torch.from_numpy(batch.act[0, 0] / 1.5).clip(-1, 1)
    assert given.abs().max() == 1
    for inputs_SRI in seen:
        torch.testing.assert_close(inputs_SRI[1:7, 0, OBS : OBS + ACT], given[:-1])
    # At the policy that acted the surrogate is minus the mean advantage, which standardised ones have at 0.
    trials = trial_sequences(
        [batch], gamma=config.gamma, gae_lambda=0.5, per_episode=False, standardise=False, action_scale=1.5,
        device=torch.device("cpu"),
    )  # fmt: skip
    mean = (trials.advantage * trials.weight).sum()
    assert mean.abs() > 1e-3
    torch.testing.assert_close(losses["surrogate"], -mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "protocol",
    [
        evaluation.PROTOCOLS["rl2"],
        evaluation.PROTOCOLS["pearl"],
        evaluation.Protocol(adaptation_episodes=6, scored_episodes=1, episodes_per_update=2),
    ],
)
def test_an_evaluation_keeps_the_memory_to_the_end_of_its_trial_and_few_episodes(protocol, monkeypatch):
    venv = metarl_envs.MetaVectorEnv("MetaPoint-Goal-v0", 1)
    algorithm = RL2.from_config(
        RL2Config(recurrent_size=6, episodes_per_trial=2),
        Context.of(venv, seed=0, device=torch.device("cpu")),
    )
    venv.close()
    policy, sequence, step = algorithm.policy, [], algorithm.policy.model.step

    def recorded(inputs_RI, *rest):
        chosen, state = step(inputs_RI, *rest)
        sequence.append((inputs_RI[None], chosen.mean[None]))
        return chosen, state

    monkeypatch.setattr(policy.model, "step", recorded)
    report = evaluation.evaluate(algorithm.trial_agent(), "MetaPoint-Goal-v0", protocol)
    assert len(sequence) == 20 * protocol.num_episodes
    inputs = torch.cat([x for x, _ in sequence])
    means = torch.cat([mean for _, mean in sequence])
    flags = inputs[:, 0, -1].nonzero()[:, 0]
    assert flags.tolist() == list(range(20, len(sequence), 20))
    with torch.no_grad():
        torch.testing.assert_close(means[:, 0], plain_means(policy.model, inputs[:, 0]), rtol=1e-5, atol=1e-5)
    assert len(policy.batches) == min(2, protocol.adaptation_episodes // protocol.episodes_per_update)
    assert np.isfinite(report.returns).all()


def test_the_last_reward_of_an_episode_is_seen_in_the_next():
    """With the end flag, as in the paper: otherwise what an episode ends with would be invisible."""
    policy = build(RL2, RL2Config(recurrent_size=6)).policy
    policy.begin_trials(1, 2)
    assert not policy.previous_RI.any()
    for reward, active in (([1.0, 2.0], [True, True]), ([3.0, 4.0], [True, False])):
        policy.act_on_arrays(np.zeros((2, OBS), np.float32), deterministic=True)
        policy.observe_arrays(
            np.zeros((2, OBS), np.float32),
            np.full((2, ACT), reward[0] / 4, np.float32),
            np.array(reward),
            np.array(active),
        )
    policy.end_episode()
    # The second rollout had ended a step before; its last step counts.
    assert policy.previous_RI.tolist() == [[0.75, 0.75, 3.0, 1.0], [0.25, 0.25, 2.0, 1.0]]
    policy.begin_trials(1, 2)
    assert not policy.previous_RI.any()


def test_cells_start_as_tensorflows():
    lstm = build(RL2, RL2Config(cell="lstm", recurrent_size=16)).policy.model.cell
    gru = build(RL2, RL2Config(cell="gru", recurrent_size=16)).policy.model.cell
    inputs = OBS + ACT + 2
    ones, zeros = torch.ones(16), torch.zeros(16)
    assert torch.equal(lstm.bias_ih_l0, torch.cat((zeros, ones, zeros, zeros)))
    assert torch.equal(gru.bias_ih_l0, torch.cat((ones, ones, zeros)))
    assert not lstm.bias_hh_l0.any()
    assert not gru.bias_hh_l0.any()
    for weight, outputs in (
        (lstm.weight_ih_l0, 64), (lstm.weight_hh_l0, 64),
        (gru.weight_ih_l0[:32], 32), (gru.weight_hh_l0[:32], 32), (gru.weight_hh_l0[32:], 16),
    ):  # fmt: skip
        bound = (6 / (inputs + 16 + outputs)) ** 0.5
        assert 0.95 * bound < weight.abs().max() <= bound


def test_configuration_errors_say_what_is_allowed():
    with pytest.raises(ConfigError, match="cell must be one of gru, lstm, not 'rnn'"):
        RL2Config(cell="rnn")
    with pytest.raises(ConfigError, match="bptt_length must be greater than 0"):
        RL2Config(bptt_length=0)
    assert RL2.batch_names(RL2Config(episodes_per_trial=1)) == ("last",)
    assert RL2.batch_names(RL2Config(episodes_per_trial=2)) == ("first", "last")
    assert RL2.batch_names(RL2Config(episodes_per_trial=4)) == ("first", "between", "between", "last")
