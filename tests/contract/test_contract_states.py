"""States are exact: copies, JSON and npz, other processes, pickles, at any moment."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from contract_helpers import (
    BODY_VARIANTS,
    VARIANTS,
    assert_same,
    difference,
    each_kind,
    each_plain_body,
    each_variant,
    make_native,
    random_actions,
    rollout,
    some_tasks,
)
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

import metarl_envs

COPIES = {
    "pickle": lambda e: pickle.loads(pickle.dumps(e)),
    "old pickle": lambda e: pickle.loads(pickle.dumps(e, protocol=2)),
    "deepcopy": copy.deepcopy,
}


@each_variant
def test_states_hold_what_the_design_says(family_id, arguments):
    family = metarl_envs.family(family_id)
    for env, n in ((metarl_envs.MetaEnv(family_id, **arguments), 1), (make_native(family_id, 3), 3)):
        rollout(env, random_actions(env, 4), seed=0)
        state = env.get_state()
        assert state["physics"].dtype == np.float64
        assert state["physics"].ndim == 2
        assert len(state["physics"]) == n
        assert state["elapsed"].dtype == np.int64
        assert (state["elapsed"] <= 4).all()
        assert state["ended"].dtype == np.bool_
        assert ((state["elapsed"] == 4) | state["ended"] | (state["elapsed"] < 4)).all()
        assert state["position"].shape[0] == n
        assert [metarl_envs.Task.from_dict(t) for t in state["tasks"]] == [
            family.task("train", i % len(family.tasks("train"))) for i in range(n)
        ]
        assert len(state["generators"]) == n
        assert state["observation"].shape == (n, *env.observation_space.shape[-1:])
        listed = {k: v for k, v in state.items() if not isinstance(v, np.ndarray)}
        assert json.loads(json.dumps(listed)) == listed


@each_plain_body
def test_set_state_continues_bit_for_bit(family_id, arguments):
    env = metarl_envs.MetaEnv(family_id, task=1, **arguments)
    actions = random_actions(env, 9)
    rollout(env, actions[:4], seed=0)
    state = env.get_state()
    kept = copy.deepcopy(state)
    expected = rollout(env, actions[4:], reset=False) + rollout(env, actions)
    expected.append(env.sample_tasks(3))
    assert_same(state, kept)
    other = metarl_envs.MetaEnv(family_id, **arguments)
    for target in (env, other):
        target.set_state(state)
        assert_same(target.get_state(), kept)
        found = rollout(target, actions[4:], reset=False) + rollout(target, actions)
        assert_same([*found, target.sample_tasks(3)], expected)
    assert_same(state, kept)


@pytest.mark.long
@pytest.mark.parametrize("mode", list(AutoresetMode))
@each_plain_body
def test_vector_set_state_continues_bit_for_bit(family_id, arguments, mode):
    """At every moment of an episode, also with a reset pending; into other thread counts too."""
    tasks = some_tasks(family_id, 3, "test")
    given_ = {"tasks": tasks, "max_episode_steps": 4, "autoreset_mode": mode, **arguments}
    envs = make_native(family_id, 3, num_threads=2, **given_)
    actions = random_actions(envs, 10)
    envs.reset(seed=0)
    envs.step(actions[0])
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    fresh = make_native(family_id, 3, num_threads=1, **{**given_, "tasks": None, "task": 0})
    for action in actions:
        state = envs.get_state()
        fresh.set_state(state)
        assert_same(fresh.get_state(), state)
        assert fresh.tasks == tuple(tasks)
        results = []
        for e in (envs, fresh):
            ended = e.get_state()["ended"]
            if mode is AutoresetMode.DISABLED and ended.any():
                results.append([e.reset(options={"reset_mask": ended}), e.step(action)])
            else:
                results.append([e.step(action), e.sample_tasks(1)])
        assert_same(*results)


@pytest.mark.long
@each_kind
def test_states_of_environments_that_were_never_reset(family_id):
    for env, other in (
        (metarl_envs.MetaEnv(family_id, task=1), metarl_envs.MetaEnv(family_id)),
        (make_native(family_id, 2, task=1), make_native(family_id, 2)),
    ):
        other.reset(seed=9)
        other.set_state(env.get_state())
        with pytest.raises(RuntimeError, match="reset"):
            other.step(np.zeros(env.action_space.shape))
        for make_copy in COPIES.values():
            again = make_copy(env)
            with pytest.raises(RuntimeError, match="reset"):
                again.step(np.zeros(env.action_space.shape))
            actions = random_actions(env, 3)
            assert_same(rollout(again, actions, seed=1), rollout(copy.deepcopy(env), actions, seed=1))


@each_kind
def test_terminated_flag_and_seed_survive(family_id):
    env = metarl_envs.MetaEnv(family_id)
    rollout(env, random_actions(env, 2), seed=4)
    state = env.get_state()
    state["ended"] = np.array([True])
    other = metarl_envs.MetaEnv(family_id)
    other.set_state(state)
    for e in (other, copy.deepcopy(other)):
        with pytest.raises(RuntimeError, match="reset"):
            e.step(np.zeros(env.action_space.shape))


@pytest.mark.long
@pytest.mark.parametrize("how", COPIES)
@each_kind
def test_asking_a_copy_for_its_seed_changes_nothing(family_id, how):
    """Gymnasium draws a new generator where a seed is asked for and none is known."""
    for env in (metarl_envs.MetaEnv(family_id), make_native(family_id, 2)):
        env.reset(seed=3)
        again = COPIES[how](env)
        assert isinstance(again.np_random_seed, int)
        assert_same(again.sample_tasks(2), env.sample_tasks(2))
        assert_same(again.reset(), env.reset())
        restored = type(env)(family_id, **env._arguments)
        restored.set_state(env.get_state())
        assert isinstance(restored.np_random_seed, int)
        assert_same(restored.sample_tasks(2), env.sample_tasks(2))


def _save(state, folder):
    """Saves a state as JSON and npz, which are all a checkpoint needs."""
    arrays = {k: v for k, v in state.items() if isinstance(v, np.ndarray)}
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "rest.json").write_text(json.dumps({k: v for k, v in state.items() if k not in arrays}))


CHILD = """
import json, pickle, sys
import numpy as np
import metarl_envs
from contract_helpers import random_actions, rollout
job = pickle.load(open("job.pickle", "rb"))
results = []
for i, (family_id, arguments) in enumerate(job):
    envs = metarl_envs.MetaVectorEnv(family_id, 3, max_episode_steps=5, num_threads=2, **arguments)
    with np.load(f"{i}/arrays.npz", allow_pickle=False) as arrays:
        state = {**arrays, **json.load(open(f"{i}/rest.json"))}
    envs.set_state(state)
    unpickled = pickle.load(open(f"{i}/env.pickle", "rb"))
    for env in (envs, unpickled):
        results.append(rollout(env, random_actions(env, 12), reset=False) + [env.sample_tasks(2)])
pickle.dump(results, open("results.pickle", "wb"))
"""


@pytest.mark.process
@pytest.mark.parametrize("variants", [BODY_VARIANTS, pytest.param(VARIANTS, marks=pytest.mark.slow)])
def test_a_fresh_process_continues_from_json_and_npz_and_from_a_pickle(tmp_path, variants):
    job, expected = [], []
    for i, (family_id, arguments) in enumerate(v.values for v in variants):
        tasks = [metarl_envs.family(family_id).sample_tasks(1, np.random.default_rng(0))[0], 1, 0]
        envs = make_native(family_id, 3, tasks=tasks, max_episode_steps=5, **arguments)
        rollout(envs, random_actions(envs, 8, seed=5), seed=i)
        job.append((family_id, arguments))
        (tmp_path / str(i)).mkdir()
        _save(envs.get_state(), tmp_path / str(i))
        (tmp_path / str(i) / "env.pickle").write_bytes(pickle.dumps(envs))
        expected += [[*rollout(envs, random_actions(envs, 12), reset=False), envs.sample_tasks(2)]] * 2
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(job))
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert_same(pickle.loads((tmp_path / "results.pickle").read_bytes()), expected)


@pytest.mark.long
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_copies_of_wrapped_environments_at_random_moments(data):
    """`gymnasium.make`'s whole stack, the time limit's counter included."""
    family_id, arguments = data.draw(st.sampled_from(VARIANTS)).values
    limit = data.draw(st.integers(1, 12))
    moment = data.draw(st.integers(0, limit))
    make_copy = COPIES[data.draw(st.sampled_from(list(COPIES)))]
    env = gymnasium.make(
        family_id, max_episode_steps=limit, observe_task=data.draw(st.booleans()), split="test", **arguments
    )
    drawn = metarl_envs.family(family_id).sample_tasks(1, np.random.default_rng(moment), "test")[0]
    env.unwrapped.set_task(data.draw(st.sampled_from([0, 1, drawn])))
    actions = random_actions(env, limit)
    before = rollout(env, actions[:moment], seed=data.draw(st.integers(0, 99)))
    again = make_copy(env)
    assert_same(again.unwrapped.get_state(), env.unwrapped.get_state())
    assert again.spec.to_json() == env.spec.to_json()
    results = [
        [*rollout(e, actions[moment:], reset=False), *rollout(e, actions), e.unwrapped.sample_tasks(2)]
        for e in (env, again)
    ]
    assert_same(*results)
    if not any(len(r) == 5 and r[2] for r in (*before, *results[0][:-1])):  # no episode ended early
        assert results[0][limit - moment - 1 if moment < limit else -2][3] is True


@pytest.mark.long
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_copies_of_vector_environments_at_random_moments(data):
    family_id, arguments = data.draw(st.sampled_from(VARIANTS)).values
    mode = data.draw(st.sampled_from(["NextStep", "SameStep"]))  # a spec with the enum is no JSON
    make_copy = COPIES[data.draw(st.sampled_from(list(COPIES)))]
    num = data.draw(st.integers(1, 5))
    envs = make_native(
        family_id,
        num,
        max_episode_steps=data.draw(st.integers(1, 6)),
        autoreset_mode=mode,
        num_threads=data.draw(st.sampled_from([None, 1, 2])),
        observe_task=data.draw(st.booleans()),
        **arguments,
    )
    moment = data.draw(st.integers(0, 9))
    actions = random_actions(envs, 18)
    rollout(envs, actions[:moment], seed=data.draw(st.integers(0, 99)))
    if data.draw(st.booleans()):
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)))
        if mask.any():
            envs.reset(options={"reset_mask": mask})
    again = make_copy(envs)
    assert again.num_envs == num
    assert again.metadata == envs.metadata
    assert again.spec.to_json() == envs.spec.to_json()
    assert_same(again.get_state(), envs.get_state())
    results = [
        [*rollout(e, actions[moment:], reset=False), e.reset(), e.sample_tasks(2)] for e in (envs, again)
    ]
    assert_same(*results)


@each_kind
def test_a_copy_is_independent(family_id):
    for env in (metarl_envs.MetaEnv(family_id), make_native(family_id, 2)):
        actions = random_actions(env, 6)
        rollout(env, actions[:3], seed=0)
        before = env.get_state()
        again = copy.deepcopy(env)
        again.set_task(1)
        rollout(again, actions, seed=8)
        again.close()
        assert_same(env.get_state(), before)
        assert difference(env.step(actions[3]), env.step(actions[3])) is not None


@each_kind
def test_closed_environments_copy_as_closed(family_id):
    for env in (metarl_envs.MetaEnv(family_id), make_native(family_id, 2)):
        env.reset(seed=0)
        env.close()
        for make_copy in COPIES.values():
            with pytest.raises(RuntimeError, match="closed"):
                make_copy(env).reset()
