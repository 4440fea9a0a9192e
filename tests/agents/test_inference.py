"""PEARL* and off-policy RL2: updates written out in double precision, trials in collection and evaluation."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import ACT, OBS, box, build
from test_run import ENV, OVERRIDES

from metarl_agents import train
from metarl_agents.algorithms.pearl_star import PearlStar, PearlStarConfig
from metarl_agents.algorithms.rl2_off_policy import RL2OffPolicy, RL2OffPolicyConfig, trial_inputs
from metarl_agents.networks.lstm import LSTMState, Memory
from metarl_agents.priors.learner import LOG_MU
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.trials import TRIAL_STEP, TrialRows, draw_trials, running_trials
from metarl_agents.run.checkpoint import newest_checkpoint, read_checkpoint, unprefixed
from metarl_agents.run.evaluate import load_agent
from metarl_envs.evaluation import Trial

SMALL = {
    "action_samples": 3, "learning_rate": 1e-2, "gamma": 0.9, "target_period": 2, "max_gradient_norm": 1e9,
    "memory_width": 5, "steps_per_task": 8,
}  # fmt: skip
RL2 = RL2OffPolicyConfig(
    **SMALL, hidden=(6,), critic_hidden=(7,), memory_hidden=(4,), batch_size=3, chunk_length=50,
    entropy_cost=0.1,
)  # fmt: skip
PEARL = PearlStarConfig(
    **SMALL, hidden=(6, 5), critic_hidden=(7, 6), batch_size=3, chunk_length=4, latent_size=2, kl_weight=0.7,
    trace_decay=0.8,
)  # fmt: skip
#: Episodes of the trials of each task.
TRIALS = [[4, 3], [2, 5, 4], [6]]


def filled(seed=0):
    """A buffer with one trial of each of three tasks; some episodes end in a terminal state."""
    buffer = TaskReplayBuffer(
        3, 40, OBS, ACT, generator=np.random.default_rng(seed), info_keys=(LOG_MU, TRIAL_STEP)
    )
    g = np.random.default_rng(seed + 1)
    for task, lengths in enumerate(TRIALS):
        taken = 0
        for number, length in enumerate(lengths):
            steps = np.arange(length)[None]
            last = steps == length - 1
            episode = {
                "obs": g.normal(size=(1, length, OBS)),
                "act": 1.5 * g.normal(size=(1, length, ACT)),
                "rew": g.normal(size=(1, length)),
                "obs_next": g.normal(size=(1, length, OBS)),
                "terminated": last & (number % 2 == 0),
                "truncated": last & (number % 2 == 1),
                LOG_MU: g.normal(size=(1, length)) - 2.0,
                TRIAL_STEP: taken + steps,
            }
            buffer.add_episodes(np.array([task]), np.array([length]), episode, to_context=True)
            taken += length
    return buffer


def make(algorithm, config, **changes):
    made = build(algorithm, dataclasses.replace(config, **changes), num_tasks=3).double()
    # Arrays of numbers become tensors of the networks' precision.
    made.tensor = lambda array: torch.as_tensor(
        array, dtype=torch.float64 if array.dtype.kind == "f" else None
    )
    made.policy.tensor = lambda array: torch.as_tensor(np.asarray(array), dtype=torch.float64)
    return made


def whole(buffer):
    return draw_trials(buffer, np.arange(3))


def episodes(buffer, task):
    """Rows of the episodes of a task's only trial."""
    row = task * buffer.capacity
    for length in TRIALS[task]:
        yield list(range(row, row + length))
        row += length


def one(array, row):
    return torch.as_tensor(array[row], dtype=torch.float64)


def returns(buffer, rows, values, next_values, policies, decay, gamma=0.9):
    """Retrace's targets of one episode, or a part of one, by their definition as sums."""
    found = []
    for start in range(len(rows)):
        total, weight = values[start].clone(), 1.0
        for step in range(start, len(rows)):
            row = rows[step]
            if step > start:
                ratio = policies[step].log_prob(one(buffer.act, row)) - float(buffer.info[LOG_MU][row])
                weight = weight * gamma * decay * min(1.0, float(ratio.exp()))
            discount = gamma * (not buffer.terminated[row])
            total = total + weight * (float(buffer.rew[row]) + discount * next_values[step] - values[step])
        found.append(total)
    return torch.stack(found)


def test_the_update_of_rl2_equals_one_written_out_step_by_step():
    ours, buffer = make(RL2OffPolicy, RL2), filled()
    other = make(RL2OffPolicy, RL2)
    networks, target = other.policy.networks, other.target.network
    with torch.no_grad():  # the target networks are not the online ones
        for parameter in [*ours.target.parameters(), *other.target.parameters()]:
            parameter.mul_(1.3)
    data = ours.batch(buffer, whole(buffer))
    steps = max(map(sum, TRIALS))
    ours.generator.manual_seed(3)
    noises = [torch.randn(3, steps, 3, ACT, generator=ours.generator, dtype=torch.float64) for _ in range(2)]
    ours.generator.manual_seed(3)
    empty = torch.zeros(1, 0, dtype=torch.float64)

    def through(nets, part, task):
        """Outputs of a memory before each step of the trial, and after each step in its episode."""
        memory = getattr(nets, f"{part}_memory")
        state, previous = memory.start(1), torch.zeros(1, ACT + 2, dtype=torch.float64)
        before, after = [], []
        for rows in episodes(buffer, task):
            for row in rows:
                state = memory.step(torch.cat((one(buffer.obs, row)[None], previous), 1), state)
                before.append(state.hidden)
                taken = torch.cat((one(buffer.act, row).clamp(-1, 1), one(buffer.rew, row)[None]))
                previous = torch.cat((taken, torch.zeros(1, dtype=torch.float64)))[None]
                step = torch.cat((one(buffer.obs_next, row)[None], previous), 1)
                after.append(memory.step(step, state).hidden)
            previous = torch.cat((taken, torch.ones(1, dtype=torch.float64)))[None]
        return before, after

    def value(nets, hidden, action):
        return nets.critic(hidden[None], empty, action[None, None])[0, 0]

    def draws(policy, noise):
        return policy.mean[0] + policy.log_std.exp()[0] * noise

    critic_loss, policy_loss, count = 0.0, 0.0, 0
    for task in range(3):
        with torch.no_grad():
            acting, following = through(target, "actor", task)
            valued, valued_after = through(target, "critic", task)
            policies = [target.actor(hidden) for hidden in acting]
        online, _ = through(networks, "critic", task)
        mine, _ = through(networks, "actor", task)
        place = 0
        for rows in episodes(buffer, task):
            span = range(place, place + len(rows))
            with torch.no_grad():
                values = [
                    value(target, valued[t], one(buffer.act, r)) for t, r in zip(span, rows, strict=True)
                ]
                next_values = [
                    torch.stack(
                        [
                            value(target, valued_after[t], a)
                            for a in draws(target.actor(following[t]), noises[0][task, t])
                        ]
                    ).mean()
                    for t in span
                ]
                aims = returns(buffer, rows, values, next_values, [policies[t] for t in span], decay=1.0)
            for t, row, aim in zip(span, rows, aims, strict=True):
                critic_loss = (
                    critic_loss + 0.5 * (value(networks, online[t], one(buffer.act, row)) - aim) ** 2
                )
                policy = networks.actor(mine[t])
                gains = [value(target, valued[t], a) for a in draws(policy, noises[1][task, t])]
                policy_loss = policy_loss - torch.stack(gains).mean() - 0.1 * policy.entropy()[0]
                count += 1
            place += len(rows)
    found = ours.gradient_step(data)
    torch.testing.assert_close(found["value_error"], critic_loss.detach() / count, rtol=1e-9, atol=1e-9)
    other.critic_optim.step(critic_loss / count)
    other.actor_optim.step(policy_loss / count)
    for (name, a), b in zip(ours.policy.networks.named_parameters(), networks.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=name)


def test_the_update_of_pearl_star_equals_one_written_out_step_by_step():
    ours, other, buffer = make(PearlStar, PEARL), make(PearlStar, PEARL), filled()
    networks, target = other.policy.networks, other.target.network
    with torch.no_grad():
        for parameter in [*ours.target.parameters(), *other.target.parameters()]:
            parameter.mul_(1.3)
        for made in (ours, other):  # a posterior that differs from N(0, I)
            made.policy.networks.encoder.head.weight.mul_(300.0)
    data = ours.draw(buffer, 3)
    ours.generator.manual_seed(3)
    normal = lambda *shape: torch.randn(*shape, generator=ours.generator, dtype=torch.float64)  # noqa: E731
    # z is drawn in single precision by the same generator.
    noise_z = torch.randn(3, 2, generator=ours.generator).double()
    noise_next, noise = normal(3, 4, 3, ACT), normal(3, 4, 3, ACT)
    ours.generator.manual_seed(3)
    chunk = data.chunk
    critic_loss, policy_loss, information = 0.0, 0.0, 0.0
    for b in range(3):
        state = networks.encoder.memory.start(1)
        for step in data.context[b, : int(data.length[b])]:
            state = networks.encoder.memory.step(step[None], state)
        mean, raw = networks.encoder.head(state.hidden)[0].chunk(2)
        variance = torch.nn.functional.softplus(raw)
        posterior = torch.distributions.Normal(mean, variance.sqrt())
        standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        information = information + torch.distributions.kl_divergence(posterior, standard).sum() / 3
        z = (mean + variance.sqrt() * noise_z[b])[None]

        def value(nets, obs, action, z):
            return nets.critic(obs[None, None], z, action[None, None])[0, 0]

        steps = [t for t in range(4) if chunk.valid[b, t]]
        fixed = z.detach()
        with torch.no_grad():
            slow = [target.actor(chunk.obs[b, t][None], fixed) for t in range(5)]
            values = [value(target, chunk.obs[b, t], chunk.act[b, t], fixed) for t in steps]
            aims = {}
            following = 0.0
            for t in reversed(steps):
                draws = slow[t + 1].mean + slow[t + 1].log_std.exp() * noise_next[b, t]
                bootstrap = torch.stack([value(target, chunk.obs[b, t + 1], a, fixed) for a in draws]).mean()
                discount = 0.9 * chunk.discount[b, t]
                aims[t] = chunk.reward[b, t] + discount * (bootstrap + following) - values[t] + values[t]
                ratio = (slow[t].log_prob(chunk.act[b, t][None])[0] - chunk.log_mu[b, t]).exp().clamp(max=1.0)
                following = 0.8 * ratio * (aims[t] - values[t])
        for t in steps:
            error = value(networks, chunk.obs[b, t], chunk.act[b, t], z) - aims[t]
            critic_loss = critic_loss + 0.5 * error.square() / chunk.valid.sum()
            policy = networks.actor(chunk.obs[b, t][None], fixed)
            draws = policy.mean + policy.log_std.exp() * noise[b, t]
            gains = [value(target, chunk.obs[b, t], a, fixed) for a in draws]
            policy_loss = policy_loss - torch.stack(gains).mean() / chunk.valid.sum()
    found = ours.gradient_step(data)
    torch.testing.assert_close(found["value_error"], critic_loss.detach(), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found["kl"], information.detach(), rtol=1e-7, atol=1e-9)
    other.critic_optim.step(critic_loss + 0.7 * information)
    other.actor_optim.step(policy_loss)
    for (name, a), b in zip(ours.policy.networks.named_parameters(), networks.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)


def test_the_encoder_learns_from_the_critic_only(monkeypatch):
    ours, buffer = make(PearlStar, PEARL), filled()
    encoder = list(ours.policy.networks.encoder.parameters())
    seen = []
    step = ours.actor_optim.step

    def checked(loss):
        seen.append(torch.autograd.grad(loss, encoder, retain_graph=True, allow_unused=True))
        step(loss)

    monkeypatch.setattr(ours.actor_optim, "step", checked)
    before = [p.detach().clone() for p in encoder]
    ours.gradient_step(ours.draw(buffer, 3))
    assert [gradient for gradients in seen for gradient in gradients] == [None] * len(encoder)
    assert not any(torch.equal(a, b) for a, b in zip(encoder, before, strict=True))


def test_a_later_episode_does_not_change_the_targets_of_an_earlier_one():
    buffer = filled()

    def targets(more):
        ours = make(RL2OffPolicy, RL2)
        ours.generator.manual_seed(0)
        data = ours.batch(buffer, whole(buffer))
        # Rewards of the losses in the second episode of task 0; those that the memories see are the same.
        data.reward[0, 4:] += more
        view = ours.target_view(data)
        _, found = ours.critic_step(data, view, ours.mean_value(data, view))
        return found.target

    first, second = targets(0.0), targets(10.0)
    assert torch.equal(first[0, :4], second[0, :4])
    assert (second[0, 4:7] > first[0, 4:7] + 1.0).all()


def test_a_chunk_of_a_long_trial_begins_in_the_state_of_the_whole_trial():
    ours, buffer = make(RL2OffPolicy, RL2, chunk_length=3), filled()
    memory = ours.policy.networks.critic_memory
    inputs = torch.as_tensor(trial_inputs(buffer, whole(buffer)), dtype=torch.float64)
    states = memory(inputs, memory.start(3))
    for drawn in (0, 2, 5):
        trials = whole(buffer)._replace(drawn=np.minimum(drawn, [6, 10, 5]))
        data = ours.batch(buffer, trials)
        found = ours.outputs(memory, data)
        for b in range(3):
            start = int(data.prefix_length[b])
            assert start <= trials.drawn[b] < start + 3
            expected = states[b, start : start + 3]
            torch.testing.assert_close(found[b][: len(expected)], expected, rtol=1e-12, atol=1e-12)


def test_what_follows_a_sequence_does_not_change_its_state():
    memory = Memory(3, (4,), 5, generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(3, 6, 3)
    length = torch.tensor([0, 2, 6])
    found = memory.state_after(inputs, length)
    changed = inputs.clone()
    changed[0], changed[1, 2:] = 7.0, 7.0
    again = memory.state_after(changed, length)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert torch.equal(found.hidden[0], torch.zeros(5))
    torch.testing.assert_close(memory.output_after(inputs, length), found.hidden)
    states = memory.states(inputs, memory.start(3))
    torch.testing.assert_close(memory(inputs, memory.start(3)), states.hidden)
    torch.testing.assert_close(found.cell[1:], torch.stack((states.cell[1, 1], states.cell[2, 5])))


@pytest.mark.long
@pytest.mark.parametrize("agent", ["pearl_star", "rl2_off_policy"])
def test_collected_trials_are_those_of_the_policy(agent, tmp_path):
    """With an untrained run: densities and numbers of steps agree with the whole trials."""
    settings = [text for text in OVERRIDES[agent] if not text.startswith("learner_use")]
    run = train(
        agent, ENV, out=tmp_path / "run", seed=7, steps=80 * 20 + 180, progress=False,
        overrides=[*settings, "learner_use=1e-6"],
    )  # fmt: skip
    made = load_agent(run.run_dir)
    arrays = unprefixed("buffer", read_checkpoint(newest_checkpoint(run.run_dir / "checkpoints")).arrays)
    buffer = TaskReplayBuffer(
        80, 100, 2, 2, generator=np.random.default_rng(0), info_keys=(LOG_MU, TRIAL_STEP)
    )
    buffer.load_state_arrays(arrays)
    trials = draw_trials(buffer, np.arange(80))
    # Trials of one episode before training, then of three.
    assert set(trials.length) <= {20, 60}
    running = running_trials(buffer, np.arange(80))
    assert sorted(set(running.length)) == [20, 60]
    numbers = buffer.info[TRIAL_STEP].take(running.rows)
    assert np.array_equal(numbers[running.valid], np.nonzero(running.valid)[1])
    if agent == "rl2_off_policy":
        policy = made.policy
        with torch.no_grad():
            inputs = policy.tensor(trial_inputs(buffer, running))
            memory = policy.networks.actor_memory
            hidden = memory(inputs, memory.start(80))
            expected = policy.networks.actor(hidden).log_prob(policy.tensor(buffer.act.take(running.rows, 0)))
        found = buffer.info[LOG_MU].take(running.rows)
        np.testing.assert_allclose(
            found[running.valid], expected.numpy()[running.valid], rtol=1e-4, atol=1e-5
        )


def test_in_an_evaluation_the_state_is_that_of_the_steps_of_each_task():
    """The second task's first episode ends after two steps, while the first one's goes on."""
    config = dataclasses.replace(RL2, memory_hidden=())
    ours = build(RL2OffPolicy, config, num_tasks=3)
    agent = ours.trial_agent()
    trial = Trial(
        num_tasks=2, observation_space=box(OBS), action_space=box(ACT), horizon=3, adaptation_episodes=1,
        scored_episodes=1, episodes_per_update=1, deterministic=False, seed=0,
    )  # fmt: skip
    agent.begin_trial(trial)
    g = np.random.default_rng(0)
    inputs = [[], []]
    previous = np.zeros((2, ACT + 2))
    for episode in range(2):
        for step in range(3):
            obs = g.normal(size=(2, OBS)).astype(np.float32)
            active = np.array([True, step < 2 or episode == 1])
            actions = agent.act(obs)
            reward = g.normal(size=2)
            for task in np.flatnonzero(active):
                inputs[task].append(np.concatenate((obs[task], previous[task])))
                previous[task] = [*actions[task].clip(-1, 1), reward[task], 0.0]
            agent.observe(
                SimpleNamespace(
                    observation=obs, action=actions, reward=reward, next_observation=obs, active=active
                )
            )
        agent.end_episode()
        previous[:, -1] = 1.0
    memory = ours.policy.networks.actor_memory
    for task in range(2):
        sequence = torch.as_tensor(np.array(inputs[task]), dtype=torch.float32)[None]
        expected = memory.state_after(sequence, torch.tensor([len(inputs[task])]))
        torch.testing.assert_close(agent.policy.memory.hidden[task], expected.hidden[0])
    np.testing.assert_allclose(agent.policy.previous_RI.numpy(), previous, rtol=1e-6)


def test_z_is_kept_through_an_episode_and_drawn_from_the_posterior_of_the_trial():
    ours = build(PearlStar, PEARL, num_tasks=3)
    agent = ours.trial_agent()
    trial = Trial(
        num_tasks=2, observation_space=box(OBS), action_space=box(ACT), horizon=3, adaptation_episodes=1,
        scored_episodes=1, episodes_per_update=1, deterministic=False, seed=0,
    )  # fmt: skip
    agent.begin_trial(trial)
    g = np.random.default_rng(0)
    seen = []
    steps = [[], []]
    for _ in range(2):
        for step in range(3):
            obs, following = g.normal(size=(2, 2, OBS)).astype(np.float32)
            active = np.array([True, step == 0])
            actions = agent.act(obs)
            seen.append(agent.policy.latent_RZ.clone())
            reward = g.normal(size=2)
            for task in np.flatnonzero(active):
                one_step = (obs[task], actions[task].clip(-1, 1), [reward[task]], following[task])
                steps[task].append(np.concatenate(one_step))
            agent.observe(
                SimpleNamespace(
                    observation=obs, action=actions, reward=reward, next_observation=following, active=active
                )
            )
        agent.end_episode()
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[3], seen[5])
    assert not torch.equal(seen[2], seen[3])
    encoder = ours.policy.networks.encoder
    expected = [
        encoder(torch.as_tensor(np.array(s), dtype=torch.float32)[None], torch.tensor([len(s)]))[0][0]
        for s in steps
    ]
    found = encoder.gaussian(agent.memory.hidden, agent.empty_T)[0]
    torch.testing.assert_close(found, torch.stack(expected))
    mean, variance = encoder(torch.randn(1, 0, 2 * OBS + ACT + 1), torch.tensor([0]))
    assert mean.tolist() == [[0.0, 0.0]]
    assert variance.tolist() == [[1.0, 1.0]]


def test_the_state_of_some_rollouts_is_refused():
    ours = build(RL2OffPolicy, RL2, num_tasks=3)
    with pytest.raises(ValueError, match="rows must be None"):
        ours.policy.act(torch.zeros(1, OBS), np.array([0]), deterministic=False)
    with pytest.raises(ValueError, match="must be 'trial', not 'task'"):
        ours.policy.begin_rollouts(np.array([0]), "task", filled())


def test_the_state_travels_to_other_processes():
    buffer = filled()
    for algorithm, config in ((RL2OffPolicy, RL2), (PearlStar, PEARL)):
        a, b = (build(algorithm, config, num_tasks=3) for _ in range(2))
        a.policy.begin_rollouts(np.arange(3), "trial", buffer)
        b.policy.prepare(a.policy.prepared(), 3)
        b.policy.generator.set_state(a.policy.generator.get_state())
        obs = torch.randn(3, OBS)
        for _ in range(2):
            first = a.policy.act(obs, None, deterministic=False)
            assert torch.equal(first, b.policy.act(obs, None, deterministic=False))
            for made in (a, b):
                made.policy.observe(obs, first, torch.ones(3))
        assert a.policy.columns[TRIAL_STEP].tolist() == [8.0, 12.0, 7.0]


def test_a_state_is_a_pair_of_tensors():
    start = Memory(2, (), 3, generator=torch.Generator()).start(4)
    assert isinstance(start, LSTMState)
    assert start.hidden.shape == start.cell.shape == (4, 3)
    assert TrialRows(np.zeros((1, 2), np.int64), np.array([1]), np.array([0])).valid.tolist() == [
        [True, False]
    ]
