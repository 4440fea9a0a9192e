"""SVG(0), DISTRAL, MPO, both, and IWPL: whole updates in double precision, and what must not matter."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import ACT, OBS, assert_equal_states, build, everything

from metarl_agents.algorithms.distral import Distral, DistralConfig
from metarl_agents.algorithms.iwpl import IWPL, IWPLConfig
from metarl_agents.algorithms.mpo import MPO, MPOConfig
from metarl_agents.algorithms.mpo_distral import MPODistral, MPODistralConfig
from metarl_agents.algorithms.svg0 import SVG0, SVG0Config
from metarl_agents.networks import layer_norm
from metarl_agents.priors.learner import ChunkBatch
from metarl_agents.priors.samples import BEFORE
from metarl_agents.priors.values import log_weights
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.chunks import chunk_starts, draw_chunks

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from straightforward_priors import StraightforwardMultiTask

TASKS, B, S = 7, 6, 5
SMALL = {
    "hidden": (8, 6), "critic_hidden": (9, 7), "batch_size": B, "chunk_length": S, "action_samples": 3,
    "learning_rate": 1e-2, "gamma": 0.9, "target_period": 2, "max_gradient_norm": 0.5,
}  # fmt: skip
AGENTS = {
    "svg0": (SVG0, SVG0Config(**SMALL, entropy_cost=0.1)),
    "distral": (Distral, DistralConfig(**SMALL, kl_cost=0.3)),
    "distral_shared": (Distral, DistralConfig(**SMALL, kl_cost=0.3, shared_q=True)),
    "mpo": (MPO, MPOConfig(**SMALL, initial_eta=0.5, initial_std_multiplier=3.0)),
    "mpo_distral": (MPODistral, MPODistralConfig(**SMALL, initial_eta=0.5, kl_cost=0.3)),
    "iwpl": (IWPL, IWPLConfig(**SMALL, acting_samples=4, kl_bound=2.0)),
    "iwpl_shared": (IWPL, IWPLConfig(**SMALL, acting_samples=4, kl_bound=2.0, shared_q=True)),
}
ALL = pytest.mark.parametrize("name", AGENTS)


def make(name, double=True, **changes):
    algorithm, config = AGENTS[name]
    made = build(algorithm, dataclasses.replace(config, **changes), num_tasks=TASKS)
    return made.double() if double else made


def make_batch(algorithm, seed=0, permutation=None):
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    lengths = torch.tensor([5, 5, 3, 5, 1, 4])
    valid = torch.arange(S) < lengths[:, None]
    discount = torch.ones(B, S, dtype=torch.float64)
    discount[torch.arange(B), lengths - 1] = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    tasks = np.array([0, 1, 2, 3, 3, 6])
    return ChunkBatch(
        randn(B, S + 1, OBS), randn(B, S, ACT), randn(B, S), discount, randn(B, S) - 2.0, valid,
        algorithm.policy.tasks(tasks if permutation is None else permutation[tasks]),
    )  # fmt: skip


@ALL
def test_the_update_equals_one_written_out_in_double_precision(name, monkeypatch):
    # Two chunks in a block, so that there are several blocks.
    monkeypatch.setattr(layer_norm, "BLOCK_ROWS", 2 * 3 * S)
    ours = make(name)
    plain = StraightforwardMultiTask(ours)
    ours.generator.manual_seed(0)
    for step in range(5):
        data = make_batch(ours, step)
        expected, found = plain.gradient_step(data), ours.gradient_step(data)
        assert set(found) == set(ours.loss_names)
        for key, value in expected.items():
            torch.testing.assert_close(found[key].detach(), value, rtol=1e-9, atol=1e-9, msg=f"{key}, {step}")


def pad_differently(data):
    """The same batch with other numbers in every padded step."""
    mask = ~data.valid
    after = torch.cat((torch.zeros(B, 1, dtype=torch.bool), mask), 1)
    changed = {key: getattr(data, key).clone() for key in ("obs", "act", "reward", "discount", "log_mu")}
    changed["obs"][after] = 17.0
    changed["act"][mask] = -0.3
    changed["reward"][mask] = 1e3
    changed["discount"][mask] = 0.5
    changed["log_mu"][mask] = -9.0
    return data._replace(**changed)


@ALL
def test_padded_steps_change_nothing(name):
    ours, other = make(name), make(name)
    for step in range(3):
        data = make_batch(ours, step)
        found, same = ours.gradient_step(data), other.gradient_step(pad_differently(data))
        for key, value in found.items():
            assert torch.equal(value, same[key]), key
    assert_equal_states(everything(ours), everything(other))


@ALL
def test_the_loss_of_the_prior_reaches_nothing_else(name, monkeypatch):
    ours = make(name)
    if ours.prior_optim is None:
        assert name in ("svg0", "mpo")
        return
    networks = ours.policy.networks
    others = [p for n, p in ours.named_parameters() if "networks.prior" not in n]
    assert len(others) + len(list(networks.prior.parameters())) == len(list(ours.parameters()))
    seen = []
    original = ours.prior_optim.step

    def step(loss):
        before = [None if p.grad is None else p.grad.clone() for p in others]
        original(loss)
        for p, grad in zip(others, before, strict=True):
            seen.append(torch.equal(p.grad, grad) if grad is not None else p.grad is None)

    monkeypatch.setattr(ours.prior_optim, "step", step)
    ours.gradient_step(make_batch(ours))
    assert seen
    assert all(seen)
    # And the target networks never get a gradient.
    assert all(p.grad is None for p in ours.target.parameters())


@ALL
def test_permuted_tasks_give_permuted_results(name):
    ours, other = make(name), make(name)
    permutation = np.array([3, 6, 0, 5, 1, 2, 4])
    with torch.no_grad():
        for networks in (other.policy.networks, other.target.network):
            shared = networks.critic.shared
            columns = networks.critic.output.network.weight if shared else networks.critic.torso.first.maps[2]
            for table in [columns] + ([] if networks.actor is None else [networks.actor.torso.first.maps[1]]):
                table[:, permutation] = table.clone()
    for step in range(3):
        found = ours.gradient_step(make_batch(ours, step))
        same = other.gradient_step(make_batch(other, step, permutation))
        for key, value in found.items():
            torch.testing.assert_close(value, same[key], rtol=1e-9, atol=1e-9)


@ALL
def test_the_prior_has_no_input_for_the_task(name):
    prior = make(name).policy.networks.prior
    if prior is not None:
        assert [weight.shape[1] for weight in prior.torso.first.maps] == [OBS]


def test_without_a_weight_on_the_divergence_distral_is_svg0():
    plain, ours = make("svg0"), make("distral", kl_cost=0.0, entropy_cost=0.1)
    for step in range(3):
        plain.gradient_step(make_batch(plain, step))
        ours.gradient_step(make_batch(ours, step))
    for kind in ("critic", "actor"):
        a, b = getattr(plain.policy.networks, kind), getattr(ours.policy.networks, kind)
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


def test_with_a_large_weight_on_the_divergence_the_policy_becomes_the_prior():
    ours = make("distral", kl_cost=1e4, target_period=5)
    data = make_batch(ours)
    with torch.no_grad():  # far apart at first
        ours.policy.networks.actor.mean.bias += 1.0
        ours.policy.networks.prior.mean.bias -= 1.0
    first = ours.gradient_step(data)["prior_kl"]
    for _ in range(400):
        last = ours.gradient_step(data)["prior_kl"]
    assert last < 1e-3 * first


def test_mpos_weights_are_iwpls_if_the_policy_is_the_prior():
    mpo, iwpl = make("mpo"), make("iwpl")
    values = torch.randn(B, S, 3, dtype=torch.float64)
    # Inside the bounds, the weights of the penalty are equal weights.
    estep = mpo.estep(make_batch(mpo), torch.zeros(B, S, 3, ACT, dtype=torch.float64), values)
    iwpl.policy.temperature.raw.data.copy_(mpo.duals.eta.raw.data)
    weights = log_weights(values, iwpl.policy.temperature()).exp()
    torch.testing.assert_close(estep.weights - 1 / 3, weights, rtol=0, atol=1e-12)


def test_values_with_and_without_gradients_agree(monkeypatch):
    """The fused form for many actions of a state, block by block, and the plain one."""
    monkeypatch.setattr(layer_norm, "BLOCK_ROWS", 7)
    for name in ("distral", "distral_shared"):
        for widths in ((9, 7), (5,), (6, 5, 4)):
            ours = make(name, critic_hidden=widths)
            critic = ours.target.network.critic
            data = make_batch(ours)
            actions = 2.0 * torch.randn(B, S + 1, 4, ACT, dtype=torch.float64)
            mapped = critic.map_states(data.obs, data.task)
            values, slopes = critic.slopes_of_samples(mapped, data.task, actions)
            assert torch.equal(values, critic.of_samples(mapped, data.task, actions))
            leaf = actions.clone().requires_grad_()
            plain = torch.stack([critic(data.obs, data.task, leaf[:, :, k]) for k in range(4)], 2)
            torch.testing.assert_close(values, plain.detach(), rtol=0, atol=1e-12)
            (expected,) = torch.autograd.grad(plain.sum(), leaf)
            torch.testing.assert_close(slopes, expected, rtol=0, atol=1e-12)


# -- data --------------------------------------------------------------------------------------------------


def episodes(lengths, capacity=40):
    """A buffer in which every step of an episode holds its task, episode and step."""
    buffer = TaskReplayBuffer(2, capacity, 3, 1, generator=np.random.default_rng(0), info_keys=("log_mu",))
    for number, length in enumerate(lengths):
        task, steps = number % 2, np.arange(length)
        obs = np.stack([np.full(length, task), np.full(length, number), steps], 1)[None]
        data = {
            "obs": obs, "obs_next": obs + np.array([0, 0, 1]), "act": np.zeros((1, length, 1)),
            "rew": steps[None], "log_mu": -steps[None], "truncated": np.zeros((1, length), bool),
            "terminated": (steps == length - 1)[None],
        }  # fmt: skip
        buffer.add_episodes(np.array([task]), np.array([length]), data, to_context=False)
    return buffer


def test_chunks_are_consecutive_steps_of_one_episode():
    # Task 0's ring has wrapped: its first episode is gone.
    buffer = episodes([17, 9, 3, 12, 11, 4, 12])
    tasks = np.arange(400) % 2
    rows, valid = draw_chunks(buffer, tasks, 5)
    task, number, step = (buffer.obs[rows][..., k] for k in range(3))
    assert (task == tasks[:, None]).all()
    assert (number == number[:, :1]).all()
    lengths = np.array([17, 9, 3, 12, 11, 4, 12])[number[:, 0].astype(int)]
    assert (valid.sum(1) == np.minimum(lengths, 5)).all()
    expected = np.minimum(step[:, :1] + np.arange(5), lengths[:, None] - 1)
    assert (step == expected).all()
    assert (valid == (step[:, :1] + np.arange(5) < lengths[:, None])).all()


def test_the_last_step_of_an_episode_is_in_its_share_of_the_chunks():
    length, steps = 10, np.arange(100)
    starts = chunk_starts(steps, 99 - steps, length)
    covered = np.zeros(100, int)
    for start in starts:
        covered[start : start + length] += 1
    assert covered.sum() == 1000
    assert covered.min() >= 5
    assert covered[-1] == 5
    assert (chunk_starts(np.arange(4), 3 - np.arange(4), length) == 0).all()


def test_the_batch_of_an_agent_is_what_was_stored():
    ours = build(SVG0, dataclasses.replace(AGENTS["svg0"][1], batch_size=50), num_tasks=2)
    ours.policy.tasks.inputs_KD = torch.eye(2)
    buffer = episodes([17, 9, 3, 12])
    data = ours.draw(buffer, 50)
    assert data.obs.shape == (50, S + 1, 3)
    consecutive = data.obs[:, 1:, 2] - data.obs[:, :-1, 2]
    assert (consecutive[data.valid] == 1.0).all()
    assert torch.equal(data.reward, data.obs[:, :-1, 2].where(data.valid, data.reward))
    assert torch.equal(data.log_mu, -data.reward)
    last = torch.tensor([16.0, 8.0, 2.0, 11.0])[data.obs[:, 0, 1].long()]
    assert torch.equal(data.discount == 0.0, data.reward == last[:, None])
    assert torch.equal(data.task.argmax(1).float(), data.obs[:, 0, 0])


def test_the_use_of_steps_is_exact_and_saved():
    """Whatever the sizes of the collections are, no update is lost or taken twice."""
    ours = make("svg0", learner_use=0.7)
    g = np.random.default_rng(0)
    total = taken = 0
    for _ in range(40):
        steps = int(g.integers(1, 200))
        total += steps
        due = ours.gradient_steps(None, type("Stats", (), {"n_collected_steps": steps}))
        assert due >= 0
        ours.counters[1] += due
        taken += due
        assert taken == int(total * 0.7 / (B * S))
    assert ours.network_state()["counters"].tolist() == [total, taken]


def test_target_networks_are_copied_at_their_period():
    ours = make("distral")
    slow, fast = (list(m.parameters()) for m in (ours.target.network, ours.policy.networks))
    for step in range(4):
        ours.gradient_step(make_batch(ours, step))
        equal = [torch.equal(a, b) for a, b in zip(slow, fast, strict=True)]
        assert all(equal) if step % 2 else not any(equal)


@ALL
def test_stored_densities_are_those_of_the_acting_policy(name):
    ours = make(name, double=False)
    policy = ours.policy
    policy.begin_rollouts(np.array([2, 5, 5]), "task", None)
    obs = torch.randn(3, OBS)
    actions = policy.act(obs, None, deterministic=False)
    networks = policy.networks
    acting = networks.prior(obs) if networks.actor is None else networks.actor(obs, policy.task_RD)
    torch.testing.assert_close(policy.columns["log_mu"], acting.log_prob(actions).detach())
    # A copy in another process, prepared in the same way, does the same.
    other = make(name, double=False).policy
    other.prepare(policy.prepared(), 3)
    other.generator.set_state(policy.generator.get_state())
    again = [p.act(obs, None, deterministic=False) for p in (policy, other)]
    assert torch.equal(*again)
    with pytest.raises(ValueError, match="must be 'task', not 'posterior'"):
        policy.begin_rollouts(np.array([2]), "posterior", None)


def test_iwpl_chooses_by_value():
    ours = make("iwpl", double=False, acting_samples=64)
    policy = ours.policy
    policy.begin_tasks(np.array([0, 1]))
    obs = torch.randn(2, OBS)
    state = policy.generator.get_state()
    best = policy.act(obs, None, deterministic=True)
    policy.temperature.raw.data.fill_(-30.0)  # so cold that the best sample has all the weight
    policy.generator.set_state(state)
    assert torch.equal(policy.act(obs, None, deterministic=False), best)


def test_literal_and_consistent_targets_differ_by_the_densities():
    a, b = make("iwpl"), make("iwpl", soft_value="literal")
    data = make_batch(a)
    consistent, literal = (agent.gradient_step(data)["target_value"] for agent in (a, b))
    assert not torch.isclose(consistent, literal)


def test_the_bound_of_eq_8_is_shared_by_the_tasks():
    assert make("iwpl").bound == 2.0 / TASKS
    assert make("iwpl", bound_scope="task").bound == 2.0
    fixed = make("iwpl", temperature="fixed")
    before = fixed.policy.temperature()
    fixed.gradient_step(make_batch(fixed))
    assert torch.equal(fixed.policy.temperature(), before)


def test_the_value_at_a_time_limit_counts_and_at_a_terminal_state_does_not():
    ours = make("svg0")
    data = make_batch(ours)
    view = ours.target_view(data)
    targets = [
        ours.critic_step(data, view, torch.full((B, S), value, dtype=torch.float64))[1].target
        for value in (0.0, 10.0)
    ]
    moved = (targets[1] - targets[0]).abs() > 1.0
    last = torch.arange(B), data.valid.sum(1) - 1
    assert moved[last].tolist() == (data.discount[last] > 0).tolist()
    assert slice(None, -1) == BEFORE
