"""Adaptation of pre-trained agents: every variant, tasks beside each other, resuming, limits."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from metarl_agents.common.seeding import part_seed
from metarl_agents.iwpa import agent as module
from metarl_agents.iwpa.agent import AdaptationAgent, Pretrained
from metarl_agents.iwpa.config import VARIANTS, AdaptationConfig
from metarl_agents.iwpa.critics import WEIGHTS, task_means, values
from metarl_agents.networks.layer_norm import ActionValue, GaussianPolicy
from metarl_envs.evaluation import Transition, Trial

OBS, ACT, HORIZON, EPISODES, STD = 2, 2, 12, 4, (0.3, 0.8, 1.3)
SMALL = AdaptationConfig(
    prior_episodes=1, steps_per_update=5, updates_per_episode=3, batch_size=4, chunk_length=4,
    action_samples=3, policy_samples=2, acting_samples=5, target_period=4, finetune_after=2,
    initial_weights="random",
)  # fmt: skip
LEARNING = [name for name in VARIANTS if name != "prior"]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def pretrained(config, gamma=0.9):
    parts = config.parts
    prior = GaussianPolicy(OBS, 0, (8, 6), ACT, std=STD, generator=seeded(1))
    critic = ActionValue(OBS, 7, ACT, (8, 6), shared=True, described=False, generator=seeded(2))
    return Pretrained(
        prior=prior if parts.prior else None,
        features=critic if parts.critic == "features" else None,
        hidden=(8, 6), critic_hidden=(8, 6), std=STD, gamma=gamma, device=torch.device("cpu"),
    )  # fmt: skip


class Points:
    """Positions that follow the actions, one goal per task; an episode ends at the goal or after a while."""

    def __init__(self, goals):
        self.goals = np.asarray(goals, np.float32)

    def run(self, agent, episodes=EPISODES, seed=3):
        """Runs a trial; returns all actions (episodes, steps, T, ACT) of active tasks, others zero."""
        count = len(self.goals)
        agent.begin_trial(trial(count, episodes, seed))
        return [self.episode(agent) for _ in range(episodes)]

    def episode(self, agent):
        count = len(self.goals)
        here, active, actions = np.zeros((count, OBS), np.float32), np.ones(count, bool), []
        for step in range(HORIZON):
            chosen = agent.act(here)
            after = here + 0.3 * np.clip(chosen, -1, 1)
            near = np.linalg.norm(after - self.goals, axis=1) < 0.4
            ended, late = active & near, active & ~near & (step == HORIZON - 1)
            agent.observe(
                Transition(
                    observation=here, action=chosen, reward=near.astype(float), next_observation=after,
                    terminated=ended, truncated=late, active=active.copy(), info={},
                )
            )  # fmt: skip
            actions.append(np.where(active[:, None], chosen, 0.0))
            active = active & ~(ended | late)
            here = after
            if not active.any():
                break
        agent.end_episode()
        return np.stack(actions)


def trial(count, episodes=EPISODES, seed=3):
    box = Box(-1, 1, (2,), np.float32)
    return Trial(
        num_tasks=count, observation_space=box, action_space=box, horizon=HORIZON,
        adaptation_episodes=episodes - 1, scored_episodes=1, episodes_per_update=1, deterministic=False,
        seed=seed,
    )  # fmt: skip


GOALS = [[0.5, 0.3], [-0.9, 0.2], [0.1, -0.7]]


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_tasks_together_are_each_task_alone(variant, monkeypatch):
    """Although their episodes end, and their updates are made, at different times."""
    config = dataclasses.replace(SMALL, variant=variant)
    agent = AdaptationAgent(pretrained(config), config)
    together = Points(GOALS).run(agent)
    arrays, _ = agent.get_state()
    for task, goal in enumerate(GOALS):

        def of_task(seed, part, task=task):
            return part_seed(seed, task if seed == 3 else part)

        monkeypatch.setattr(module, "part_seed", of_task)
        single = AdaptationAgent(pretrained(config), config)
        for one, all_ in zip(Points([goal]).run(single), together, strict=True):
            np.testing.assert_allclose(one[:, 0], all_[: len(one), task], atol=1e-4)
        found, _ = single.get_state()
        for name, array in found.items():
            if name.startswith("learner."):
                np.testing.assert_allclose(array[0], arrays[name][task], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("variant", LEARNING)
def test_what_was_pre_trained_stays_as_it_is(variant):
    config = dataclasses.replace(SMALL, variant=variant)
    source = pretrained(config)
    parts = [part for part in (source.prior, source.features) if part is not None]
    before = [{n: p.clone() for n, p in part.named_parameters()} for part in parts]
    agent = AdaptationAgent(source, config)
    Points(GOALS).run(agent)
    for part, old in zip(parts, before, strict=True):
        assert all(torch.equal(p, old[n]) for n, p in part.named_parameters())
    assert all(np.isfinite(values).all() for values in agent.get_state()[0].values())


def test_fine_tuning_starts_after_its_episode_and_changes_copies_of_each_task():
    results = {}
    for variant in ("iwpa", "iwpa_finetune"):
        config = dataclasses.replace(SMALL, variant=variant, learning_rate=0.05)
        agent = AdaptationAgent(pretrained(config), config)
        results[variant] = Points(GOALS).run(agent)
        networks = agent.learner.critics.networks
        shared = dict(pretrained(config).features.named_parameters())
        for name, value in networks.online.items():
            if name.startswith("torso."):
                assert (len(value) == 1) == (variant == "iwpa")
                same = [torch.equal(row, shared[name]) for row in value]
                assert all(same) if variant == "iwpa" else not any(same), name
    plain, tuned = results.values()
    for episode in range(EPISODES):
        same = plain[episode].shape == tuned[episode].shape and np.array_equal(plain[episode], tuned[episode])
        assert same == (episode < SMALL.finetune_after), episode


@pytest.mark.parametrize("variant", ["iwpa", "iwpa_finetune", "shared_q", "q_only"])
def test_the_gradient_of_output_weights_is_that_of_the_whole_network(variant):
    config = dataclasses.replace(SMALL, variant=variant, updates_per_episode=0, steps_per_update=1000)
    agent = AdaptationAgent(pretrained(config), config)
    Points(GOALS).run(agent, episodes=1)
    critics, steps = agent.learner.critics, agent.learner.steps
    chunks = steps.draw(np.arange(3), agent.generators, 6, 4)
    target = torch.randn(chunks.rows.shape, generator=seeded(0))
    online = {n: v.double() for n, v in critics.networks.online.items()}
    leaf = online[WEIGHTS].clone().requires_grad_()
    found = values(
        online | {WEIGHTS: leaf}, chunks.of(steps.obs).double(), chunks.of(steps.act).double()[:, :, None]
    )[..., 0]
    loss = task_means(0.5 * (found - target).square(), chunks.valid)
    (expected,) = torch.autograd.grad(loss.sum(), leaf)
    taken = {}
    critics.networks.step = lambda gradients, tasks: taken.update(gradients) or tasks[:0]
    mine, _ = critics.step(chunks, target)
    torch.testing.assert_close(taken[WEIGHTS].double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mine.double(), loss.detach(), rtol=1e-4, atol=1e-6)


def test_weights_of_frozen_features_converge_to_least_squares():
    """Without future values, the critic is a linear regression of the reward on the features."""
    config = dataclasses.replace(
        SMALL, variant="iwpa", updates_per_episode=0, steps_per_update=10**6, learning_rate=0.02,
        batch_size=64, initial_weights="zero",
    )  # fmt: skip
    agent = AdaptationAgent(pretrained(config, gamma=0.0), config)
    Points(GOALS).run(agent)
    learner, everyone = agent.learner, np.arange(3)
    for rate in (0.05, 0.005, 0.0005):
        learner.critics.networks.optimiser.learning_rate = rate
        for _ in range(1500):
            learner.update(learner.steps.draw(everyone, agent.generators, config.batch_size, 4))
    for task in range(3):
        used = int(learner.steps.count[task])
        chunks = learner.steps.draw(everyone, agent.generators, 4000, 4)
        # The least squares of the steps as often as chunks contain them.
        weight = np.bincount(chunks.rows[task][chunks.valid[task]].numpy(), minlength=used) ** 0.5
        psi = learner.critics.taken_TMF[task, :used].double().numpy() * weight[:, None]
        reward = learner.steps.reward[task, :used].double().numpy() * weight
        best, *_ = np.linalg.lstsq(psi, reward, rcond=None)
        found = learner.critics.networks.online[WEIGHTS][task].double().numpy()
        worst, mine, least = (((psi @ w - reward) ** 2).sum() for w in (0 * best, found, best))
        assert mine - least <= 0.05 * (worst - least), (mine, least, worst)


def test_kept_features_of_samples_change_nothing():
    found = []
    for cache in (1.0, 0.0):
        config = dataclasses.replace(SMALL, variant="iwpa", feature_cache=cache)
        agent = AdaptationAgent(pretrained(config), config)
        actions = Points(GOALS).run(agent)
        assert (agent.learner.cache_TMKF is None) == (cache == 0.0)
        found.append((actions, agent.get_state()[0]))
    (one, first), (two, second) = found
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("start", "expected"), [(1.0, 0.725), (0.1, 0.0646), (0.01, 0.0064)])
def test_a_bound_that_never_binds_lowers_the_temperature(start, expected):
    """Specification, known answer 5: KL 0 and a bound of 30, after 1,000 updates with step size 5e-4."""
    config = dataclasses.replace(SMALL, variant="iw", initial_temperature=start)
    agent = AdaptationAgent(pretrained(config), config)
    agent.begin_trial(trial(2))
    learner, tasks = agent.learner, torch.arange(2)
    np.testing.assert_allclose(learner.temperatures, start, rtol=1e-5)
    equal, valid = torch.zeros(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    for _ in range(1000):
        learner.temper(tasks, equal, valid)
    np.testing.assert_allclose(learner.temperatures, expected, rtol=0.01)


@pytest.mark.parametrize("variant", LEARNING)
def test_an_agent_goes_on_from_its_state(variant):
    config = dataclasses.replace(SMALL, variant=variant)
    whole = AdaptationAgent(pretrained(config), config)
    expected = Points(GOALS).run(whole)
    for stop in (1, 3):
        first = AdaptationAgent(pretrained(config), config)
        Points(GOALS).run(first, episodes=EPISODES)  # other data, forgotten by begin_trial
        world = Points(GOALS)
        first.begin_trial(trial(3))
        for _ in range(stop):
            world.episode(first)
        arrays, values = first.get_state()
        second = AdaptationAgent(pretrained(config), config)
        second.begin_trial(trial(3))
        second.set_state(arrays, values)
        for episode in range(stop, EPISODES):
            assert np.array_equal(world.episode(second), expected[episode])
        ours, theirs = second.get_state(), whole.get_state()
        assert ours[1] == theirs[1]
        assert all(np.array_equal(ours[0][name], theirs[0][name]) for name in theirs[0])


def test_the_prior_acts_in_the_first_episodes_only():
    config = dataclasses.replace(SMALL, variant="distral", prior_episodes=2)
    alone = Points(GOALS).run(
        AdaptationAgent(pretrained(config), dataclasses.replace(config, variant="prior"))
    )
    runs = Points(GOALS).run(AdaptationAgent(pretrained(config), config))
    # The prior's actions are drawn from the same generators until learning draws from them too.
    assert np.array_equal(runs[0][:5], alone[0][:5])
    without = dataclasses.replace(config, prior_episodes=0)
    other = Points(GOALS).run(AdaptationAgent(pretrained(without), without))
    assert not np.array_equal(other[0][:5], alone[0][:5])
