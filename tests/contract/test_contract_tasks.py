"""Contract 2 and 8: which task is played, what keeps it, what changes with it."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from contract_helpers import (
    DYNAMICS_IDS,
    PLACED_IDS,
    assert_same,
    each_id,
    each_kind,
    make_native,
    random_actions,
    rollout,
    some_tasks,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

import metarl_envs

FEW = settings(max_examples=2, deadline=None)


@each_id
def test_plain_reset_keeps_the_task(family_id):
    task = metarl_envs.family(family_id).task("test", 1)
    env = gymnasium.make(family_id, split="test", task=1)
    for seed in (0, None, 5, None):
        _, info = env.reset(seed=seed)
        assert env.unwrapped.get_task() == task
        assert info["task_id"] == 1


@each_id
def test_the_task_changes_by_option_and_by_method(family_id):
    family = metarl_envs.family(family_id)
    env = metarl_envs.MetaEnv(family_id)
    assert env.get_task() == family.task("train", 0)
    for form in (1, np.int64(1), family.task("train", 1), family.task("train", 1).to_dict()):
        env.set_task(0)
        assert env.reset(seed=0, options={"task": form})[1]["task_id"] == 1
        assert env.get_task() == family.task("train", 1)
        env.set_task(0)
        env.set_task(form)
        assert env.get_task() == family.task("train", 1)
    other_split = family.task("test", 1)
    env.reset(options={"task": other_split})
    assert env.get_task() == other_split
    assert env.reset()[1]["task_id"] == 1
    # None asks for no change, as no option does.
    env.reset(options={"task": None})
    env.reset(options={})
    assert env.get_task() == other_split


@each_kind
def test_wrapped_environments_offer_the_task_methods(family_id):
    env = gymnasium.make(family_id)
    env.reset(seed=0)
    drawn = env.get_wrapper_attr("sample_tasks")(3)
    assert len(drawn) == 3
    env.get_wrapper_attr("set_task")(drawn[2])
    assert env.get_wrapper_attr("get_task")() == drawn[2]
    envs = SyncVectorEnv([lambda: gymnasium.make(family_id)] * 2)
    assert envs.call("get_task") == (metarl_envs.family(family_id).task("train", 0),) * 2
    envs.call("set_task", 1)
    assert envs.call("get_task") == (metarl_envs.family(family_id).task("train", 1),) * 2


@each_id
def test_a_new_task_counts_from_the_next_step(family_id):
    """`set_task` in the middle of an episode changes no state, only what follows."""
    if family_id in (*DYNAMICS_IDS, *PLACED_IDS):  # their tasks have been different until then
        env = metarl_envs.MetaEnv(family_id, task=0)
        env.reset(seed=0)
        before = env.get_state()
        env.set_task(1)
        after = env.get_state()
        assert_same({**before, "tasks": None}, {**after, "tasks": None})
        assert after["tasks"] == [metarl_envs.family(family_id).task("train", 1).to_dict()]
        return
    tasks = some_tasks(family_id, 2)
    env = metarl_envs.MetaEnv(family_id, task=tasks[0])
    twin = metarl_envs.MetaEnv(family_id, task=tasks[1])
    action = random_actions(env, 4)
    rollout(env, action[:2], seed=0)
    rollout(twin, action[:2], seed=0)
    env.set_task(tasks[1])
    assert_same(env.step(action[2]), twin.step(action[2]))


@each_id
def test_sample_tasks(family_id):
    family = metarl_envs.family(family_id)
    for env in (metarl_envs.MetaEnv(family_id, split="test"), make_native(family_id, 2, split="test")):
        env.reset(seed=11)
        first = env.sample_tasks(20)
        env.reset(seed=11)
        assert first == env.sample_tasks(20)
        assert len(set(env.sample_tasks(20)) | set(first)) > 1
        assert env.sample_tasks(0) == ()
        assert all(task.split == "test" for task in first)
        if family.train_equals_test:
            assert set(first) <= set(family.tasks("test"))
        else:
            assert {task.index for task in first} == {-1}
            assert len(set(first)) == 20
        rows = np.array([task.parameters for task in first])
        assert family.splits["test"].distribution.contains(rows).all()
        assert all(family.task_space.contains(task.vector) for task in first)
        env.set_task(first[0])
        assert np.all(env.reset()[1]["task_id"] == first[0].index)
        env.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@each_kind
def test_tasks_survive_autoreset(family_id, mode):
    tasks = some_tasks(family_id, 3, "test")
    envs = make_native(family_id, 3, tasks=tasks, max_episode_steps=2, autoreset_mode=mode)
    envs.reset(seed=0)
    for action in random_actions(envs, 8):
        _, _, terminated, truncated, info = envs.step(action)
        ended = terminated | truncated
        assert envs.tasks == envs.get_task() == tuple(tasks)
        assert info["task_id"].tolist() == [task.index for task in tasks]
        if mode is AutoresetMode.DISABLED and ended.any():
            _, info = envs.reset(options={"reset_mask": ended})
            assert info["task_id"][ended].tolist() == [
                task.index for task, e in zip(tasks, ended, strict=True) if e
            ]
    envs.close()


@pytest.mark.long
@each_kind
def test_tasks_survive_pickle_and_deepcopy(family_id):
    drawn = metarl_envs.family(family_id).sample_tasks(1, np.random.default_rng(4))[0]
    for task in (1, drawn):
        env = gymnasium.make(family_id, split="test")
        env.unwrapped.set_task(task)
        envs = make_native(family_id, 2, split="test")
        envs.set_tasks([0, task])
        for make_copy in (copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))):
            assert make_copy(env).unwrapped.get_task() == env.unwrapped.get_task()
            assert make_copy(envs).tasks == envs.tasks
            assert make_copy(env).unwrapped.split == make_copy(envs).split == "test"


@pytest.mark.long
@each_id
def test_default_tasks_of_a_vector_environment(family_id):
    table = metarl_envs.family(family_id).tasks("test")
    num = len(table) + 2
    envs = metarl_envs.MetaVectorEnv(family_id, num, split="test")
    assert envs.tasks == tuple(table[i % len(table)] for i in range(num))
    assert envs.reset(seed=0)[1]["task_id"].tolist() == [i % len(table) for i in range(num)]
    one = metarl_envs.MetaVectorEnv(family_id, 3, split="test", task=1)
    assert one.tasks == (table[1],) * 3
    several = metarl_envs.MetaVectorEnv(family_id, 3, split="test", tasks=[1, table[0], table[1].to_dict()])
    assert several.tasks == (table[1], table[0], table[1])
    envs.close()


@each_kind
def test_set_tasks_with_and_without_a_mask(family_id):
    a, b, c = some_tasks(family_id, 3, "test")
    envs = make_native(family_id, 3)
    envs.set_tasks([a, b, c])
    assert envs.tasks == (a, b, c)
    envs.set_tasks([c, a], mask=np.array([True, False, True]))
    assert envs.tasks == (c, b, a)
    envs.set_tasks(b, mask=np.array([False, False, True]))
    assert envs.tasks == (c, b, b)
    envs.set_tasks([], mask=np.zeros(3, dtype=bool))
    assert envs.tasks == (c, b, b)
    envs.set_task(a)
    assert envs.tasks == (a, a, a)
    envs.reset(seed=0, options={"task": [a, b, c]})
    assert envs.tasks == (a, b, c)
    selected = np.array([False, True, True])
    envs.reset(options={"task": [c, a], "reset_mask": selected})
    assert envs.tasks == (a, c, a)
    _, info = envs.reset(options={"task": b})
    assert envs.tasks == (b, b, b)
    assert info["task_id"].tolist() == [b.index] * 3


@pytest.mark.long
@each_id
def test_vectorised_tasks_are_the_rows_tasks(family_id):
    """Row i of a vector environment plays the task that the single environment i plays."""
    tasks = some_tasks(family_id, 3, "test")
    envs = make_native(family_id, 3)
    envs.set_tasks(tasks)
    actions = random_actions(envs, 4)
    together = rollout(envs, actions, seed=5)
    for i, task in enumerate(tasks):
        env = metarl_envs.MetaEnv(family_id, task=task)
        alone = rollout(env, actions[:, i], seed=5 + i)
        for row, single in zip(together[1:], alone[1:], strict=False):
            assert row[1][i] == single[1]
            if single[2]:
                break  # from here on they restart differently


def _probe(envs, steps):
    """Walks N simulations in N constant directions of the first two actions.

    Returns all observations, all rewards, and which simulations never ended an episode.
    """
    angle = np.linspace(0.0, 2.0 * np.pi, envs.num_envs, endpoint=False)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    actions = random_actions(envs, 1)[0]
    actions[:, :2] = direction / np.abs(direction).max(axis=1, keepdims=True)
    results = rollout(envs, [actions] * steps, seed=0)
    ended = np.any([r[2] | r[3] for r in results[1:]], axis=0)
    return [r[0] for r in results], [r[1] for r in results[1:]], ~ended


@pytest.mark.long
@each_id
@FEW
@given(data=st.data())
def test_changing_the_task_changes_rewards_and_nothing_observed(family_id, data):
    family = metarl_envs.family(family_id)
    drawn = family.sample_tasks(4, np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))))
    held_out = () if family.fixed_starts else family.tasks("test")  # these start where they start
    pool = {t.parameters: t for t in (*family.tasks("train"), *held_out, *drawn)}
    pair = data.draw(
        st.lists(
            st.sampled_from(list(pool.values())), min_size=2, max_size=2, unique_by=lambda t: t.parameters
        )
    )
    # Twelve steps at full speed carry a point past every goal of its unit circle.
    # On targets that are metres away a sparse reward says nothing so soon.
    arguments = {"reward": "dense"} if family.objective == "on_target" else {}
    results = []
    for task in pair:
        envs = make_native(family_id, 24, task=task, max_episode_steps=100, **arguments)
        results.append(_probe(envs, 12))
        envs.close()
    (seen_a, rewards_a, whole_a), (seen_b, rewards_b, whole_b) = results
    differ = any((a != b).any() for a, b in zip(rewards_a, rewards_b, strict=True))
    if family_id in (*DYNAMICS_IDS, *PLACED_IDS):
        assert differ or any((a != b).any() for a, b in zip(seen_a, seen_b, strict=True))
        return
    assert differ
    # An episode that ends at success restarts elsewhere.
    whole = whole_a & whole_b
    assert whole.any()
    assert_same([seen[whole] for seen in seen_a], [seen[whole] for seen in seen_b])
