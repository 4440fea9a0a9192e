"""Contract 9, bad input in use: one exception with a sentence, and the environment is as it was."""

import copy

import gymnasium
import numpy as np
import pytest
from bad_input import BAD_ACTIONS, BAD_TASKS, KINDS, bad_actions, bad_tasks, foreign, refused
from contract_helpers import (
    assert_same,
    each_engine,
    each_id,
    each_kind,
    make_native,
    random_actions,
    rollout,
)

import metarl_envs


@pytest.fixture
def pair(family_id):
    """A single environment in the middle of an episode, and its twin."""
    envs = [metarl_envs.MetaEnv(family_id, observe_task=True, split="train") for _ in range(2)]
    actions = random_actions(envs[0], 6)
    for env in envs:
        rollout(env, actions[:2], seed=5)
    return (*envs, actions[2:])


@pytest.fixture
def vector_pair(family_id):
    """The same with three simulations."""
    envs = [make_native(family_id, 3, observe_task=True, max_episode_steps=5) for _ in range(2)]
    actions = random_actions(envs[0], 8)
    for env in envs:
        rollout(env, actions[:2], seed=5)
    return (*envs, actions[2:])


def _check_unharmed(env, twin, actions, calls):
    before = env.get_state()
    for call, words in calls:
        refused(call, words)
        assert_same(env.get_state(), before)
    assert_same(rollout(env, actions, reset=False), rollout(twin, actions, reset=False))
    assert_same(env.reset(), twin.reset())
    assert_same(env.sample_tasks(2), twin.sample_tasks(2))


@pytest.mark.long
@pytest.mark.parametrize("name", BAD_ACTIONS)
@each_engine
def test_bad_action(pair, vector_pair, name):
    for env, twin, actions in (pair, vector_pair):
        action, words = bad_actions(env.action_space.shape)[name]
        _check_unharmed(env, twin, actions, [(lambda e=env, a=action: e.step(a), words)])


@pytest.mark.long
@pytest.mark.parametrize("name", BAD_TASKS)
@each_engine
def test_bad_task(pair, vector_pair, family_id, name):
    task, words = bad_tasks(family_id)[name]
    env, twin, actions = pair
    calls = [
        (lambda: env.set_task(task), words),
        (lambda: env.reset(options={"task": task}), words),
        (lambda: env.reset(seed=1, options={"task": task}), words),
    ]
    _check_unharmed(env, twin, actions, calls)
    envs, twin, actions = vector_pair
    mask = np.array([True, False, False])
    calls = [
        (lambda: envs.set_task(task), words),
        (lambda: envs.set_tasks([0, 1, task]), words),
        (lambda: envs.set_tasks([task], mask), words),
        (lambda: envs.reset(options={"task": task}), words),
        (lambda: envs.reset(seed=1, options={"task": [1, 1, task]}), words),
        (lambda: envs.reset(seed=1, options={"task": task, "reset_mask": mask}), words),
    ]
    _check_unharmed(envs, twin, actions, calls)


@pytest.mark.long
@each_id
def test_every_id_refuses_every_bad_action_and_task(pair, vector_pair, family_id):
    """All of them one after the other; the two tests above take each alone, and tasks by all ways in."""
    for env, twin, actions in (pair, vector_pair):
        calls = [
            (lambda e=env, a=action: e.step(a), words)
            for action, words in bad_actions(env.action_space.shape).values()
        ]
        calls += [
            (lambda e=env, t=task: e.set_task(t), words) for task, words in bad_tasks(family_id).values()
        ]
        _check_unharmed(env, twin, actions, calls)


@each_kind
def test_bad_number_of_tasks(vector_pair):
    envs, twin, actions = vector_pair
    two = np.array([True, True, False])
    calls = [
        (lambda: envs.set_tasks([0, 1]), ("3", "2")),
        (lambda: envs.set_tasks([]), ("3", "0")),
        (lambda: envs.set_tasks([0, 1, 0], two), ("2", "3")),
        (lambda: envs.reset(options={"task": [0, 1, 0, 1]}), ("3", "4")),
        (lambda: envs.reset(seed=0, options={"task": [0, 1, 0], "reset_mask": two}), ("2", "3")),
    ]
    _check_unharmed(envs, twin, actions, calls)


@each_kind
def test_unknown_options(pair, vector_pair):
    env, twin, actions = pair
    calls = [
        (lambda: env.reset(options={"taks": 1}), ("'task'", "'taks'")),
        (lambda: env.reset(seed=3, options={"task": 1, "x": 0}), ("'task'", "'x'")),
        (lambda: env.reset(options={"reset_mask": np.ones(1, bool)}), ("'task'",)),
    ]
    _check_unharmed(env, twin, actions, calls)
    envs, twin, actions = vector_pair
    calls = [
        (lambda: envs.reset(options={"taks": 1}), ("'task'", "'reset_mask'", "'taks'")),
        (lambda: envs.reset(seed=3, options={"task": 1, "x": 0}), ("'task'", "'reset_mask'", "'x'")),
    ]
    _check_unharmed(envs, twin, actions, calls)


@each_kind
def test_bad_masks(vector_pair):
    envs, twin, actions = vector_pair
    masks = (
        (np.ones(2, bool), ("(3,)", "(2,)")),
        (np.ones((3, 1), bool), ("(3,)", "(3, 1)")),
        (np.ones(3), ("bool",)),
        (np.array([0, 1, 1]), ("bool",)),
        ([True, False, True], ("bool",)),
        (True, ("bool",)),
    )
    calls = []
    for mask, words in masks:
        calls += [
            (lambda m=mask: envs.step(actions[0], m), ("mask", *words)),
            (lambda m=mask: envs.set_tasks(0, m), ("mask", *words)),
            (lambda m=mask: envs.reset(options={"reset_mask": m}), ("reset_mask", *words)),
            (lambda m=mask: envs.reset(seed=0, options={"reset_mask": m}), ("reset_mask", *words)),
        ]
    calls.append((lambda: envs.reset(options={"reset_mask": np.zeros(3, bool)}), ("at least one",)))
    _check_unharmed(envs, twin, actions, calls)


@each_kind
def test_bad_seeds(vector_pair):
    envs, twin, actions = vector_pair
    calls = [
        (lambda: envs.reset(seed=[1, 2]), ("3", "2")),
        (lambda: envs.reset(seed=[1, 2, 3, 4], options={"task": 1}), ("3", "4")),
        (lambda: envs.reset(seed=[]), ("3", "0")),
    ]
    _check_unharmed(envs, twin, actions, calls)


@pytest.mark.parametrize("seed", [-1, 1.5, "abc"])
@each_kind
def test_impossible_seeds(pair, vector_pair, seed):
    """Gymnasium's own exception for a seed counts as a sentence too."""
    for env, twin, actions in (pair, vector_pair):
        before = env.get_state()
        with pytest.raises((*KINDS, gymnasium.error.Error), match=r"(?i)seed"):
            env.reset(seed=seed, options={"task": 1})
        assert_same(env.get_state(), before)
        assert_same(rollout(env, actions, reset=False), rollout(twin, actions, reset=False))


@each_kind
def test_negative_number_of_samples(pair, vector_pair):
    for env, twin, actions in (pair, vector_pair):
        _check_unharmed(env, twin, actions, [(lambda e=env: e.sample_tasks(-1), ("at least 0", "-1"))])


@each_id
def test_step_before_reset(family_id):
    for env in (metarl_envs.MetaEnv(family_id), make_native(family_id, 2)):
        before = env.get_state()
        action = np.zeros(env.action_space.shape)
        refused(lambda e=env, a=action: e.step(a), ("reset", "step"))
        assert_same(env.get_state(), before)
        env.reset(seed=0)
        env.step(action)
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make(family_id).step(env.single_action_space.sample())


@each_kind
def test_first_reset_must_be_of_all(family_id):
    envs = make_native(family_id, 2)
    before = envs.get_state()
    refused(lambda: envs.reset(options={"reset_mask": np.array([True, False])}), ("first reset", "all"))
    assert_same(envs.get_state(), before)
    envs.reset(seed=0, options={"reset_mask": np.array([True, True])})
    envs.step(envs.action_space.sample())


@each_kind
def test_step_after_an_end_in_disabled_mode(family_id):
    envs, twin = (make_native(family_id, 2, max_episode_steps=2, autoreset_mode="Disabled") for _ in range(2))
    actions = random_actions(envs, 3)
    for e in (envs, twin):
        rollout(e, actions[:2], seed=0)
    before = envs.get_state()
    for mask in (None, np.array([True, True]), np.array([False, True])):
        refused(lambda m=mask: envs.step(actions[2], m), ("ended", "reset", "mask"))
        assert_same(envs.get_state(), before)
    assert_same(envs.reset(), twin.reset())
    assert_same(envs.step(actions[2]), twin.step(actions[2]))


@pytest.mark.long
@each_id
def test_closed_environment(family_id):
    single = metarl_envs.MetaEnv(family_id, render_mode="rgb_array")
    vector = make_native(family_id, 2, render_mode="rgb_array")
    for env in (single, vector):
        env.reset(seed=0)
        state = env.get_state()
        action = env.action_space.sample()
        env.close()
        env.close()
        for call in (
            env.reset,
            lambda e=env, a=action: e.step(a),
            env.render,
            env.get_state,
            lambda e=env, s=state: e.set_state(s),
            lambda e=env: e.set_task(0),
        ):
            refused(call, ("closed",))
    refused(lambda: vector.set_tasks([0, 1]), ("closed",))


@each_kind
def test_states_that_do_not_fit(pair, vector_pair, family_id):
    """A state of another shape, family or form is refused as a whole."""
    other = metarl_envs.MetaEnv(foreign(family_id).family, observe_task=True)
    other.reset(seed=0)
    for env, twin, actions in (pair, vector_pair):
        good = env.get_state()
        env_calls = [(lambda e=env: e.set_state(other.get_state()), ())]
        others_task = {**copy.deepcopy(good), "tasks": [foreign(family_id).to_dict()] * len(good["tasks"])}
        env_calls.append((lambda e=env, s=others_task: e.set_state(s), (family_id,)))
        _check_unharmed(env, twin, actions, env_calls)
    env, envs = pair[0], vector_pair[0]
    before = env.get_state(), envs.get_state()
    refused(lambda: env.set_state(before[1]), ("does not fit", "(3,", "(1,"))
    refused(lambda: envs.set_state(before[0]), ("does not fit", "(3,", "(1,"))
    assert_same((env.get_state(), envs.get_state()), before)


STATE_KEYS = ("physics", "observation", "elapsed", "tasks", "generators", "ended", "np_random", "started")


@pytest.mark.long
@pytest.mark.parametrize("key", STATE_KEYS)
@pytest.mark.parametrize("defect", ["missing", "too short"])
@each_engine
def test_incomplete_states(pair, vector_pair, key, defect):
    """A state that lacks a part, or has too little of one, is refused as a whole."""
    for env, twin, actions in (pair, vector_pair):
        state = env.get_state()
        state["physics"] = state["physics"] + 0.25  # so that a state taken in part shows
        if key not in state:
            assert key == "started"  # the vector environment's own
            continue
        part = state.pop(key)
        if (key, defect, len(part)) == ("generators", "too short", 1):
            continue  # none at all: the state of an environment before its first reset
        if defect == "too short":
            state[key] = {} if key == "np_random" else part[:-1]
        words = (key,) if defect == "missing" else ()
        _check_unharmed(env, twin, actions, [(lambda e=env, s=state: e.set_state(s), words)])
