"""Contract 3: all randomness comes from the environments' own generators."""

import random

import gymnasium
import numpy as np
import pytest
from contract_helpers import (
    IDS,
    assert_same,
    each_body,
    each_id,
    each_plain_body,
    make_native,
    random_actions,
    rollout,
)

import metarl_envs
from metarl_envs.families import specs, tables

GLOBAL_DRAWS = (
    "beta", "bytes", "choice", "exponential", "gamma", "normal", "permutation", "rand", "randint", "randn",
    "random", "random_sample", "seed", "set_state", "shuffle", "standard_normal", "uniform",
)  # fmt: skip


def _whole_life(family_id, arguments, seed):
    """Everything an environment can do that could want a random number."""
    env = gymnasium.make(family_id, max_episode_steps=3, **arguments)
    env.reset(seed=seed)
    actions = random_actions(env, 6)
    results = rollout(env, actions[:3], seed=seed)
    results += rollout(env, actions[3:])
    results.append([t.parameters for t in env.unwrapped.sample_tasks(3)])
    results.append(env.unwrapped.get_state()["physics"])
    env.close()
    envs = make_native(family_id, 3, max_episode_steps=2, num_threads=2, **arguments)
    results += rollout(envs, random_actions(envs, 6), seed=seed)
    results.append([t.parameters for t in envs.sample_tasks(3)])
    envs.close()
    family = metarl_envs.family(family_id)
    results.append([t.parameters for t in family.sample_tasks(2, np.random.default_rng(1))])
    specs.parse(family_id, specs.read_toml(_specification(family_id)))
    results.extend(tables.derive(family).values())
    return results


def _specification(family_id):
    return metarl_envs.family(family_id).directory / f"{family_id}.toml"


@pytest.mark.long
@each_plain_body
def test_global_generators_are_left_alone(family_id, arguments):
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    before = np.random.get_state(), random.getstate()  # noqa: NPY002
    first = _whole_life(family_id, arguments, 3)
    after = np.random.get_state(), random.getstate()  # noqa: NPY002
    assert_same(list(before[0]), list(after[0]))
    assert before[1] == after[1]
    np.random.seed(8)  # noqa: NPY002
    random.seed(8)
    assert_same(first, _whole_life(family_id, arguments, 3))


@pytest.mark.long
@each_id
def test_global_generators_are_not_read(family_id, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a global generator was used")

    for name in GLOBAL_DRAWS:
        monkeypatch.setattr(np.random, name, refuse)
    for name in ("random", "uniform", "gauss", "randint", "choice", "shuffle", "seed", "getrandbits"):
        monkeypatch.setattr(random, name, refuse)
    _whole_life(family_id, {}, 3)


@each_id
def test_seeds_decide_everything(family_id):
    env = metarl_envs.MetaEnv(family_id)
    actions = random_actions(env, 3)
    first = rollout(env, actions, seed=1) + rollout(env, actions)
    again = rollout(env, actions, seed=1) + rollout(env, actions)
    assert_same(first, again)


@each_id
def test_unseeded_resets_continue_the_generator(family_id):
    """Two resets after one seed differ where starts are random, and reseeding brings the first back."""
    env = metarl_envs.MetaEnv(family_id)
    a, b = env.reset(seed=1)[0], env.reset()[0]
    starts_are_random = not np.array_equal(env.reset(seed=1)[0], env.reset(seed=2)[0])
    assert np.array_equal(a, b) != starts_are_random
    np.testing.assert_array_equal(env.reset(seed=1)[0], a)


@pytest.mark.long
@each_body
def test_a_vector_seed_spreads_over_the_simulations(family_id):
    envs = make_native(family_id, 4, task=0)
    singles = [metarl_envs.MetaEnv(family_id) for _ in range(4)]
    observations, _ = envs.reset(seed=40)
    np.testing.assert_array_equal(observations, [env.reset(seed=40 + i)[0] for i, env in enumerate(singles)])
    # Without a seed each simulation goes on with its own generator.
    np.testing.assert_array_equal(envs.reset()[0], [env.reset()[0] for env in singles])
    observations, _ = envs.reset(seed=[7, 7, None, 0])
    np.testing.assert_array_equal(
        observations, [env.reset(seed=s)[0] for env, s in zip(singles, [7, 7, None, 0], strict=True)]
    )
    np.testing.assert_array_equal(observations[0], observations[1])


@each_body
def test_a_masked_reset_seeds_and_draws_only_for_its_simulations(family_id):
    mask = np.array([False, True, False])
    envs, twin = make_native(family_id, 3, task=0), make_native(family_id, 3, task=0)
    before, _ = envs.reset(seed=0)
    twin.reset(seed=0)
    observations, info = envs.reset(seed=100, options={"reset_mask": mask})
    expected = metarl_envs.MetaEnv(family_id).reset(seed=101)[0]
    np.testing.assert_array_equal(observations[1], expected)
    np.testing.assert_array_equal(observations[[0, 2]], before[[0, 2]])
    assert all(np.array_equal(info[key], mask) for key in info if key.startswith("_"))
    # The generators of the others are where they were.
    np.testing.assert_array_equal(envs.reset()[0][[0, 2]], twin.reset()[0][[0, 2]])


@each_body
def test_one_simulation_does_not_disturb_anothers_generator(family_id):
    """A simulation that is reset often draws from its own generator alone."""
    envs = make_native(family_id, 2)
    envs.reset(seed=0)
    for _ in range(3):
        envs.reset(options={"reset_mask": np.array([True, False])})
    twin = make_native(family_id, 2)
    twin.reset(seed=0)
    np.testing.assert_array_equal(envs.reset()[0][1], twin.reset()[0][1])


@pytest.mark.parametrize(
    ("family_id", "split"), [(i, split) for i in IDS for split in metarl_envs.family(i).splits]
)
def test_sampling_tasks_leaves_other_environments_alone(family_id, split):
    env, twin = (metarl_envs.MetaEnv(family_id, split=split) for _ in range(2))
    env.reset(seed=0)
    twin.reset(seed=0)
    metarl_envs.family(family_id).sample_tasks(5, np.random.default_rng(0), split)
    other = metarl_envs.MetaEnv(family_id)
    other.reset(seed=9)
    other.sample_tasks(5)
    assert env.sample_tasks(3) == twin.sample_tasks(3)
    np.testing.assert_array_equal(env.reset()[0], twin.reset()[0])
