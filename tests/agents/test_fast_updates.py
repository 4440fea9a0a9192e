"""Meta-SGD, AdaptSV, TESP: episode buffer, encoder, stored gradients, what meta-updates keep, ablations."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl_agents.algorithms.tesp import TESPConfig
from metarl_agents.registry import find_agent
from metarl_agents.run.assembly import assemble
from metarl_agents.trials.episode_encoder import EpisodeEncoder, EpisodeMemory, best_episodes, memory_of
from metarl_agents.trials.episodes import Episodes
from metarl_agents.trials.trust_region import flat

POINT, WALKER = "MetaPoint-Goal-v0", "MetaWalker2d-Params-v0"
SMALL = {
    "hidden": "8", "tasks_per_iteration": 3, "episodes_per_task": 3, "outer_steps": 3, "inner_steps": 2,
    "learning_rate": 1e-2,
}  # fmt: skip
SMALL_EMBEDDING = SMALL | {"embedding_size": 3}
SMALL_TESP = SMALL_EMBEDDING | {"encoder_hidden": 5, "best_episodes": 4}
SETTINGS = {"meta_sgd": SMALL, "adapt_sv": SMALL_EMBEDDING, "tesp": SMALL_TESP}


def parts_of(agent, env_id=POINT, seed=3, **changes):
    config = find_agent(agent).config(env_id, "paper", SETTINGS[agent] | changes)
    return assemble(agent, env_id, config, seed=seed, device=torch.device("cpu"), threads=1)


def one_iteration(agent, **arguments):
    """Parts after a collection and its meta-update, and what each step reported."""
    parts = parts_of(agent, **arguments)
    parts.collector.collect(n_step=1)
    return parts, list(parts.algorithm.outer_steps())


def parameters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def random_memory(tasks, episodes, seed, returns=None):
    g = torch.Generator().manual_seed(seed)
    entries = torch.randn(tasks, episodes, 4, 2, generator=g)
    if returns is None:
        returns = torch.randint(-3, 4, (tasks, episodes), generator=g).double()
    return EpisodeMemory(entries, torch.ones(tasks, episodes, 4, dtype=torch.bool), returns)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 8), st.integers(0, 999))
def test_the_buffer_holds_the_best_episodes_as_a_multiset(batches, count, seed):
    """Whatever the order and the ties: the returns kept are the largest of all that were seen."""
    memory, seen = None, []
    for number, size in enumerate(batches):
        new = random_memory(2, size, seed + number)
        seen.append(new)
        memory = best_episodes(memory, new, count)
    for task in range(2):
        every = torch.cat([batch.returns[task] for batch in seen]).tolist()
        assert Counter(memory.returns[task].tolist()) == Counter(sorted(every, reverse=True)[:count])
        # Episodes stay whole: entries and return belong together.
        pairs = [
            (batch.entries[task, k].flatten().tolist(), float(batch.returns[task, k]))
            for batch in seen
            for k in range(batch.returns.shape[1])
        ]
        for k in range(memory.returns.shape[1]):
            assert (memory.entries[task, k].flatten().tolist(), float(memory.returns[task, k])) in pairs


def test_a_buffer_without_limit_keeps_everything_and_ties_keep_the_earlier():
    first, second = (random_memory(1, 3, seed, torch.zeros(1, 3)) for seed in (1, 2))
    assert best_episodes(first, second, None).returns.shape == (1, 6)
    assert torch.equal(best_episodes(first, second, 3).entries, first.entries)


@pytest.mark.parametrize("complete", [True, False])
def test_the_encoder_is_a_gru_a_linear_layer_and_a_mean(complete):
    """Against torch.nn.GRU on each episode's own steps, with another set of weights for each task."""
    generator = torch.Generator().manual_seed(0)
    encoders = [EpisodeEncoder(2, 5, 3, generator=generator).double() for _ in range(2)]
    memory = random_memory(2, 3, 1)
    memory = memory._replace(entries=memory.entries.double())
    lengths = torch.full((2, 3), 4)
    if not complete:
        lengths = torch.tensor([[4, 2, 1], [3, 4, 2]])
        memory = memory._replace(valid=torch.arange(4) < lengths[..., None])
    own = {
        name: torch.stack([dict(e.named_parameters())[name] for e in encoders])
        for name in parameters(encoders[0])
    }
    measured = encoders[0](memory, own)
    for task, encoder in enumerate(encoders):
        gru = torch.nn.GRU(2, 5, batch_first=True).double()
        gru.load_state_dict({
            f"{name}_l0": getattr(encoder, name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        })  # fmt: skip
        ends = torch.stack([
            gru(memory.entries[task, k, : lengths[task, k]])[1][0] for k in range(3)
        ])  # fmt: skip
        expected = (ends @ encoder.weight_out.T + encoder.bias_out).mean(0)
        torch.testing.assert_close(measured[task], expected)


def test_entries_are_observation_action_reward():
    g = np.random.default_rng(0)
    valid = np.arange(5) < np.array([[3, 5]])[..., None]
    episodes = Episodes(
        g.normal(size=(1, 2, 5, 2)).astype(np.float32),
        g.normal(size=(1, 2, 5, 1)).astype(np.float32),
        g.normal(size=(1, 2, 5)),
        valid,
    )
    memory = memory_of(episodes, torch.device("cpu"))
    assert memory.entries.dtype == torch.float32
    np.testing.assert_array_equal(memory.entries[0, 1, 3, :2], episodes.obs[0, 1, 3])
    np.testing.assert_array_equal(memory.entries[0, 1, 3, 2:3], episodes.act[0, 1, 3])
    assert float(memory.entries[0, 1, 3, 3]) == np.float32(episodes.reward[0, 1, 3])
    np.testing.assert_allclose(memory.returns, episodes.returns)


@pytest.mark.long
@pytest.mark.parametrize("agent", SETTINGS)
@pytest.mark.parametrize("env_id", [POINT, WALKER])
def test_meta_updates_start_where_the_policies_acted(agent, env_id):
    """At the first iteration every ratio is one, also where episodes end early."""
    parts, found = one_iteration(agent, env_id=env_id)
    assert float(found[0]["policy_kl"]) == pytest.approx(0.0, abs=1e-5)
    outer = parts.algorithm.policy.samples[-1]
    mean = float((outer.advantage * outer.weight).sum(-1).mean())
    assert float(found[0]["surrogate"]) == pytest.approx(-mean, abs=1e-5)
    assert len(found) == 3
    parts.env.close()


@pytest.mark.parametrize("agent", SETTINGS)
def test_only_what_adapts_moves_in_a_trial(agent):
    parts = parts_of(agent)
    policy = parts.algorithm.policy
    before = parameters(policy)
    parts.collector.collect(n_step=1)
    after = parameters(policy)
    assert all(torch.equal(before[name], after[name]) for name in before)
    prefixes = {"meta_sgd": ("weight", "bias"), "adapt_sv": ("latent",), "tesp": ("encoder.",)}[agent]
    assert policy.own
    assert all(name.startswith(prefixes) for name in policy.own)
    moved = flat(list(policy.own.values())) - flat([p.expand(3, *p.shape) for p in _start(policy)])
    assert moved.abs().max() > 0
    # theta_K = theta - alpha o sum of gradients.
    alpha = policy.step_sizes.by_name()
    for name, value in policy.own.items():
        start = dict(policy.model.named_parameters())[name]
        torch.testing.assert_close(value, start - alpha[name] * policy.gradients[name])
    parts.env.close()


def _start(policy):
    named = dict(policy.model.named_parameters())
    return [named[name] for name in policy.own]


def test_the_gradient_of_a_step_size_is_minus_gradient_times_gradient():
    """d L / d alpha = -(sum of stored gradients) o dL / d theta_K, averaged over tasks."""
    parts = parts_of("meta_sgd")
    algorithm, policy = parts.algorithm, parts.algorithm.policy
    parts.collector.collect(n_step=1)
    sample = policy.samples[-1]
    own = {n: v.detach().requires_grad_() for n, v in algorithm.adapted_parameters(slice(0, 3)).items()}
    new = policy.model.distribution(sample.obs, own, None)
    ratio = (new.log_prob(sample.act) - sample.old_log_prob).exp()
    loss = -(ratio * sample.advantage * sample.weight).sum() / 3  # all ratios are one: nothing is clipped
    at_end = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
    total = algorithm.loss(slice(0, 3))[0]
    learned = dict(zip(policy.step_sizes.names, policy.step_sizes.learned, strict=True))
    slopes = torch.autograd.grad(total, list(learned.values()))
    for name, slope in zip(learned, slopes, strict=True):
        torch.testing.assert_close(
            slope, -(policy.gradients[name] * at_end[name]).sum(0), rtol=1e-3, atol=1e-6
        )
    # First order: theta's gradient is that at theta_K.
    (slope,) = torch.autograd.grad(algorithm.loss(slice(0, 3))[0], [policy.model.weight_0])
    torch.testing.assert_close(slope, at_end["weight_0"].sum(0), rtol=1e-3, atol=1e-6)
    parts.env.close()


def test_second_order_meta_sgd_takes_the_same_trial_and_another_meta_gradient():
    slopes = {}
    for second_order in (False, True):
        parts = parts_of("meta_sgd", second_order=str(second_order), inner_step_size=0.05)
        algorithm, policy = parts.algorithm, parts.algorithm.policy
        parts.collector.collect(n_step=1)
        after = algorithm.adapted_parameters(slice(0, 3))
        torch.testing.assert_close(after["weight_0"], policy.own["weight_0"], rtol=1e-4, atol=1e-6)
        (slopes[second_order],) = torch.autograd.grad(algorithm.loss(slice(0, 3))[0], [policy.model.weight_0])
        parts.env.close()
    assert not torch.allclose(slopes[False], slopes[True], rtol=1e-3)


def test_a_second_order_meta_update_runs_to_its_end():
    _, found = one_iteration("meta_sgd", second_order="true")
    assert len(found) == 3
    assert all(torch.isfinite(losses["surrogate"]) for losses in found)


def test_a_meta_update_keeps_the_best_parameters_near_those_that_acted():
    # With an impossible bound on the divergence nothing but the unchanged parameters is a candidate.
    for limit, moves in ((1e-12, False), (10.0, True)):
        parts = parts_of("adapt_sv", outer_steps=5, kl_limit=limit)
        policy = parts.algorithm.policy
        before = parameters(policy)
        parts.collector.collect(n_step=1)
        candidates, found = [before], []
        for losses in parts.algorithm.outer_steps():
            found.append(losses)
            candidates.append(parameters(policy))
        # The measurement of iteration k is of the parameters before its step.
        measured = [float(x["surrogate"]) for x in found]
        allowed = [k for k, x in enumerate(found) if float(x["policy_kl"]) < limit]
        expected = candidates[min(allowed, key=lambda k: measured[k])] if allowed else before
        for name, value in parameters(policy).items():
            assert torch.equal(value, expected[name]), name
        assert any(not torch.equal(v, before[n]) for n, v in parameters(policy).items()) == moves
        # The last iteration only measures.
        assert all(torch.equal(candidates[-1][n], candidates[-2][n]) for n in before)
        parts.env.close()


@pytest.mark.parametrize("agent", ["adapt_sv", "tesp"])
def test_the_penalty_is_the_mean_square_of_the_embedding(agent):
    plain, heavy = (one_iteration(agent, embedding_penalty=eta, outer_steps=1) for eta in (0, 5))
    for parts, _ in (plain, heavy):
        algorithm, policy = parts.algorithm, parts.algorithm.policy
        sample = policy.samples[-1]
        context = policy.model.context(algorithm.adapted_parameters(slice(0, 3)), sample.memory)
        total, (surrogate, _, _) = algorithm.loss(slice(0, 3))
        square = context.square().mean().detach()
        assert float(square) > 0
        torch.testing.assert_close(total.detach(), surrogate + algorithm.config.embedding_penalty * square)
        parts.env.close()
    assert plain[0].algorithm.config.embedding_penalty == 0
    assert heavy[0].algorithm.config.embedding_penalty == 5


def test_the_first_batch_of_tesp_acts_on_zero_and_fills_the_buffer():
    parts = parts_of("tesp", best_episodes=2)
    policy = parts.algorithm.policy
    stats = parts.collector.collect(n_step=1)
    assert list(stats.returns_by_conditioning) == ["warm_up", "before", "between", "after"]
    warm_up, *others = policy.samples
    assert warm_up.memory is None
    # The old policy of the warm-up is the policy on h = 0.
    zeros = torch.zeros(*warm_up.obs.shape[:2], 3)
    expected = policy.model.policy(torch.cat((warm_up.obs, zeros), -1))
    torch.testing.assert_close(expected.mean, warm_up.old.mean)
    # Each later batch remembers the two best of everything before it.
    batches = [sample.memory for sample in others] + [policy.memory]
    for earlier, later in pairwise(batches):
        assert later.returns.shape == (3, 2)
        assert (later.returns.min(1).values >= earlier.returns.min(1).values).all()
    parts.env.close()


ABLATIONS = {
    "V1": {"best_episodes": 0},
    "V2": {"adapt_policy": "true"},
    "V3": {"embedding_penalty": 0},
    "V4": {"inner_step_size": 0, "learned_step_sizes": "false"},
    "V5": {"learned_step_sizes": "false"},
}


@pytest.fixture(scope="module")
def full():
    """The full method after one collection and one meta-update."""
    parts, _ = one_iteration("tesp", embedding_penalty=0.1)
    yield parts
    parts.env.close()


@pytest.mark.long
@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_change_exactly_what_they_name(name, full):
    """Against the full method from the same seed, after one collection and one meta-update."""
    cut, _ = one_iteration("tesp", **{"embedding_penalty": 0.1} | ABLATIONS[name])
    ours, theirs = (parts.algorithm.policy for parts in (full, cut))
    # All of them begin alike: the same weights, so the same warm-up batch.
    torch.testing.assert_close(ours.samples[0].act, theirs.samples[0].act)
    assert (theirs.memory.returns.shape[1] == 12) == (name == "V1")
    assert ours.memory.returns.shape[1] == 4
    adapts_policy = any(n.startswith("policy.") for n in theirs.own)
    assert adapts_policy == (name == "V2")
    assert (cut.algorithm.config.embedding_penalty == 0) == (name == "V3")
    assert (len(theirs.step_sizes.learned) == 0) == (name in ("V4", "V5"))
    trial = parts_of("tesp", **ABLATIONS[name])
    trial.collector.collect(n_step=1)
    policy = trial.algorithm.policy
    still = all(
        torch.equal(v, s.expand_as(v)) for v, s in zip(policy.own.values(), _start(policy), strict=True)
    )
    assert still == (name == "V4")
    # Constant step sizes are the value learned ones start from.
    if name == "V5":
        assert set(theirs.step_sizes.by_name().values()) == {1e-3}
    # Where the trial is the same, so are all its data.
    same_trial = all(torch.equal(a.act, b.act) for a, b in zip(ours.samples, theirs.samples, strict=True))
    assert same_trial == (name in ("V3", "V5"))
    for parts in (cut, trial):
        parts.env.close()


@pytest.mark.long
@pytest.mark.parametrize("agent", SETTINGS)
def test_fast_updates_follow_raw_advantages(agent):
    """The step size of 1e-3 and the bound of 60 belong to them; standardised ones hardly move a policy."""
    moved = {}
    for standardise in ("true", "false"):
        parts = parts_of(agent, "MetaReacher2-Goal-v0", standardise_advantages=standardise, inner_steps=3)
        parts.collector.collect(n_step=1)
        policy = parts.algorithm.policy
        advantage = policy.samples[-1].advantage
        assert torch.allclose(advantage.std(-1), torch.ones(3), atol=1e-2) == (standardise == "true")
        moved[standardise] = float(sum(g.square().sum() for g in policy.gradients.values()).sqrt())
        parts.env.close()
    assert moved["false"] > 5 * moved["true"]
    assert not find_agent(agent).config(POINT, "paper").standardise_advantages


def test_what_adapts_starts_as_in_the_released_code():
    """AdaptSV's variable with norm 0.01; TESP's GRU as a Keras cell."""
    latent = parts_of("adapt_sv").algorithm.policy.model.latent
    assert float(latent.norm()) == pytest.approx(0.01, rel=1e-5)
    encoder = EpisodeEncoder(3, 20, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.weight_hh.T @ encoder.weight_hh, torch.eye(20), rtol=0, atol=1e-5)
    assert encoder.weight_ih.abs().max() <= (6 / 63) ** 0.5
    assert not encoder.bias_ih.any()
    assert not encoder.bias_hh.any()


def test_batches_of_different_lengths_share_a_buffer():
    """An evaluation pads a batch to its own longest episode."""
    short, long = random_memory(2, 3, 1), random_memory(2, 3, 2)
    long = EpisodeMemory(torch.randn(2, 3, 6, 2), torch.ones(2, 3, 6, dtype=torch.bool), long.returns)
    for old, new in ((short, long), (long, short)):
        both = best_episodes(old, new, None)
        assert both.entries.shape == (2, 6, 6, 2)
        lengths = both.valid.sum(-1)[0].tolist()
        assert lengths == ([4] * 3 + [6] * 3 if old is short else [6] * 3 + [4] * 3)


def test_the_defaults_are_the_papers():
    config = TESPConfig()
    assert (config.inner_steps, config.outer_steps, config.clip, config.kl_limit) == (3, 20, 0.15, 0.01)
    assert (config.best_episodes, config.encoder_hidden, config.gae_lambda) == (16, 256, 0.97)
    for env_id, size, hidden, eta in (
        ("MetaWheeled-Goal-v0", 8, 256, 0.01), ("MetaAnt-GoalAnnulus-v0", 32, 512, 0.01),
        ("MetaReacher2-Goal-v0", 8, 256, 0.005), ("MetaReacher4-Goal-v0", 16, 512, 0.005),
    ):  # fmt: skip
        preset = find_agent("tesp").config(env_id, "paper")
        assert (preset.embedding_size, preset.hidden, preset.embedding_penalty) == (
            size,
            (hidden, hidden),
            eta,
        )
        assert preset.tasks_per_iteration * preset.episodes_per_task * 200 == 100_000
