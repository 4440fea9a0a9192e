"""PEARL* and off-policy RL2: updates written out in double precision, and what must not matter."""

import dataclasses

import numpy as np
import torch
from builders import ACT, build
from inference_data import PEARL, RL2, TRIALS, filled

from metarl_agents.algorithms.pearl_star import PearlStar
from metarl_agents.algorithms.rl2_off_policy import RL2OffPolicy, trial_inputs
from metarl_agents.priors.learner import LOG_MU
from metarl_agents.replay.trials import draw_trials


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
