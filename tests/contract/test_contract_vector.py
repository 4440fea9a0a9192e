"""Contract 6 and the one code path: native, Sync and Async agree bit for bit; autoreset; thread counts."""

import gymnasium
import numpy as np
import pytest
from contract_helpers import (
    BODY_IDS,
    ENGINE_IDS,
    IDS,
    KIND_IDS,
    VARIANTS,
    assert_same,
    difference,
    each_body,
    each_id,
    each_kind,
    each_plain_body,
    make_native,
    random_actions,
    rollout,
    single_factories,
    slow_unless,
    some_tasks,
)
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

import metarl_envs

N = 4
RESETTING = pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])


def _native_and_factories(family_id, mode, limit, **arguments):
    tasks = some_tasks(family_id, N)
    native = make_native(family_id, N, tasks=tasks, max_episode_steps=limit, autoreset_mode=mode, **arguments)
    assert native.autoreset_mode is native.metadata["autoreset_mode"] is mode
    return native, single_factories(family_id, tasks, max_episode_steps=limit, **arguments)


def _is_compared_by_default(family_id, arguments, mode, observe_task):
    """Each variant in one way; the other mode on each body, and the task observed on each kind of family."""
    if mode == "NextStep" and not observe_task:
        return True
    return not arguments and family_id in (KIND_IDS if observe_task else BODY_IDS)


@pytest.mark.parametrize(
    ("family_id", "arguments", "mode", "observe_task"),
    slow_unless(_is_compared_by_default, ("NextStep", "SameStep"), (False, True)),
)
def test_native_equals_sync(family_id, arguments, mode, observe_task):
    mode = AutoresetMode(mode)
    native, factories = _native_and_factories(family_id, mode, 7, observe_task=observe_task, **arguments)
    sync = SyncVectorEnv(factories, autoreset_mode=mode)
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    actions = random_actions(native, 17)  # through two resets
    plain = not arguments and family_id in BODY_IDS
    for seed in (3, None, [5, 2, 9, 2]) if plain else (3,):
        assert_same(rollout(native, actions, seed=seed), rollout(sync, actions, seed=seed))
    options = {"task": 1}
    assert_same(native.reset(seed=7, options=options), sync.reset(seed=7, options={"task": 1}))
    assert options == {"task": 1}
    assert_same(rollout(native, actions, reset=False), rollout(sync, actions, reset=False))
    native.close()
    sync.close()


@pytest.mark.process
@pytest.mark.parametrize(
    ("family_id", "arguments", "mode"),
    slow_unless(  # how its worker resets is Gymnasium's own code: the other mode on one id
        lambda i, arguments, mode: not arguments and i in ENGINE_IDS[: None if mode == "NextStep" else 1],
        ("NextStep", "SameStep"),
    ),
)
def test_native_equals_async(family_id, arguments, mode):
    mode = AutoresetMode(mode)
    native, factories = _native_and_factories(family_id, mode, 5, **arguments)
    parallel = AsyncVectorEnv(factories, autoreset_mode=mode, context="fork")
    try:
        actions = random_actions(native, 18)
        assert_same(rollout(native, actions, seed=3), rollout(parallel, actions, seed=3))
    finally:
        parallel.close(terminate=True)
    native.close()


@pytest.mark.long
@each_body
def test_native_equals_sync_over_whole_episodes(family_id):
    """At the family's own horizon, through a reset."""
    horizon = metarl_envs.family(family_id).horizon
    tasks = some_tasks(family_id, 2)
    native = make_native(family_id, 2, tasks=tasks)
    sync = SyncVectorEnv(single_factories(family_id, tasks))
    actions = random_actions(native, horizon + 5)
    assert_same(rollout(native, actions, seed=8), rollout(sync, actions, seed=8))


@pytest.mark.long
@each_plain_body
def test_disabled_autoreset_equals_sync(family_id, arguments):
    native, factories = _native_and_factories(family_id, AutoresetMode.DISABLED, 4, **arguments)
    sync = SyncVectorEnv(factories, autoreset_mode=AutoresetMode.DISABLED)
    assert_same(native.reset(seed=0), sync.reset(seed=0))
    for action in random_actions(native, 14):
        results = native.step(action), sync.step(action)
        assert_same(*results)
        ended = results[0][2] | results[0][3]
        if ended.any():
            assert_same(
                native.reset(options={"reset_mask": ended.copy()}),
                sync.reset(options={"reset_mask": ended.copy()}),
            )


@pytest.mark.long
@each_body
def test_partial_resets_equal_sync(family_id):
    """Episodes of different age: some simulations are reset in the middle of others' episodes."""
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        native, factories = _native_and_factories(family_id, mode, 6)
        sync = SyncVectorEnv(factories, autoreset_mode=mode)
        rng = np.random.default_rng(5)
        assert_same(native.reset(seed=0), sync.reset(seed=0))
        for step, action in enumerate(random_actions(native, 30)):
            assert_same(native.step(action), sync.step(action))
            if step % 4 == 2:
                mask = rng.random(N) < 0.4
                mask[step % N] = True
                seed = (None, step, [step, None, None, 3])[step % 3]
                options = {"reset_mask": mask.copy()}
                a = native.reset(seed=seed, options=options)
                assert_same(options, {"reset_mask": mask})
                assert_same(a, sync.reset(seed=seed, options=options))


@each_body
def test_next_step_semantics(family_id):
    """The step after an end resets: reward 0, no end, the action is ignored."""
    envs = make_native(family_id, 2, max_episode_steps=3, autoreset_mode="NextStep")
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    actions = random_actions(envs, 8)
    results = rollout(envs, actions, seed=0)[1:]
    assert [r[3].tolist() for r in results] == [[s in (2, 6)] * 2 for s in range(8)]
    assert not any(r[2].any() for r in results)
    for i in (3, 7):
        _, reward, _, _, info = results[i]
        assert (reward == 0).all()
        assert all((info[k] == 0).all() for k in info if k.startswith("reward_"))
    other = make_native(family_id, 2, max_episode_steps=3)
    changed = actions.copy()
    changed[3] = -changed[3]
    assert_same(rollout(other, changed, seed=0)[1:], results)
    assert "final_obs" not in results[2][4]


@each_body
def test_same_step_semantics(family_id):
    """The ending step returns the new episode's observation, and the last one as `final_obs`."""
    envs = make_native(family_id, 2, max_episode_steps=3, autoreset_mode="SameStep")
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    actions = random_actions(envs, 7)
    results = rollout(envs, actions, seed=0)[1:]
    assert [r[3].tolist() for r in results] == [[s in (2, 5)] * 2 for s in range(7)]
    single = metarl_envs.MetaEnv(family_id)
    episode = rollout(single, actions[:3, 0], seed=0)
    start, start_info = single.reset()
    observation, reward, _, _, info = results[2]
    assert_same(observation[0], start)
    assert_same(info["final_obs"][0], episode[-1][0])
    assert reward[0] == episode[-1][1]
    for key, value in episode[-1][-1].items():
        assert info["final_info"][key][0] == value
        assert info["final_info"][f"_{key}"].all()
        assert info[key][0] == start_info[key]
    assert info["_final_obs"].all()
    assert info["_final_info"].all()
    assert all("final_obs" not in results[i][4] for i in (0, 1, 3, 4, 6))


@each_body
def test_disabled_semantics(family_id):
    """An ended simulation waits for its reset; others can go on meanwhile through `mask`."""
    envs = make_native(family_id, 3, max_episode_steps=3, autoreset_mode="Disabled")
    twin = make_native(family_id, 3, max_episode_steps=50, autoreset_mode="Disabled")
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    actions = random_actions(envs, 6)
    assert_same(envs.reset(seed=0), twin.reset(seed=0))
    last = [e.step(a) for a in actions[:2] for e in (envs, twin)][-2]
    early = np.array([True, False, False])
    for e in (envs, twin):
        start, _ = e.reset(options={"reset_mask": early})
    assert_same(start[1:], last[0][1:])
    observation, _, terminated, truncated, _ = envs.step(actions[2])
    twin.step(actions[2])
    assert truncated.tolist() == [False, True, True]
    assert not terminated.any()
    with pytest.raises(RuntimeError, match="reset"):
        envs.step(actions[3])
    goes_on = ~truncated
    after = envs.step(actions[3], goes_on)
    free = twin.step(actions[3])
    assert_same([x[0] for x in after[:2]], [x[0] for x in free[:2]])
    assert_same(after[0][1:], observation[1:])
    assert (after[1][1:] == 0).all()
    assert not after[2].any()
    assert not after[3].any()
    start, info = envs.reset(options={"reset_mask": truncated})
    assert_same(start[0], after[0][0])
    assert info["_task_id"].tolist() == truncated.tolist()
    *_, truncated, _ = envs.step(actions[4])
    assert truncated.tolist() == [True, False, False]


@pytest.mark.long
@each_plain_body
def test_masked_step_advances_only_the_selected(family_id, arguments):
    envs = make_native(family_id, 4, observe_task=True, **arguments)
    singles = [e() for e in single_factories(family_id, envs.tasks, observe_task=True, **arguments)]
    last, _ = envs.reset(seed=0)
    for i, env in enumerate(singles):
        env.reset(seed=i)
    rng = np.random.default_rng(1)
    for action in random_actions(envs, 12):
        mask = rng.random(4) < 0.5
        kept_mask = mask.copy()
        observation, reward, terminated, truncated, info = envs.step(action, mask)
        assert_same(mask, kept_mask)
        for i, env in enumerate(singles):
            if mask[i]:
                single = env.step(action[i])
                row = (observation[i], float(reward[i]), bool(terminated[i]), bool(truncated[i]))
                assert_same(row, single[:4])
                assert_same({k: info[k][i].item() for k in single[4]}, single[4])
            else:
                assert_same(observation[i], last[i])
                assert (reward[i], terminated[i], truncated[i]) == (0.0, False, False)
                assert all(info[k][i] == 0 for k in info if k.startswith("reward_"))
        last = observation
    np.testing.assert_array_equal(
        envs.get_state()["elapsed"], [env.unwrapped.get_state()["elapsed"][0] for env in singles]
    )


@RESETTING
@each_body
def test_masked_out_pending_resets_wait(family_id, mode):
    """With autoreset, what is masked out neither advances nor resets."""
    envs = make_native(family_id, 2, max_episode_steps=2, autoreset_mode=mode)
    twin = make_native(family_id, 2, max_episode_steps=2, autoreset_mode=mode)
    actions = random_actions(envs, 6)
    assert_same(rollout(envs, actions[:2], seed=0), rollout(twin, actions[:2], seed=0))
    frozen = envs.get_state()
    still = envs.step(actions[2], np.zeros(2, dtype=bool))
    assert not still[3].any()
    assert (still[1] == 0).all()
    # The controls of the last actions are in the physics too, but the next step overwrites them.
    assert_same({**envs.get_state(), "physics": None}, {**frozen, "physics": None})
    for action in actions[3:]:
        assert_same(envs.step(action), twin.step(action))


@pytest.mark.long
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_number_of_threads_gives_the_same_numbers(data):
    family_id, arguments = data.draw(st.sampled_from(VARIANTS)).values
    num = data.draw(st.integers(2, 9))
    threads = data.draw(st.lists(st.integers(1, 12), min_size=2, max_size=3, unique=True))
    results = []
    for count in (*threads, None):
        envs = make_native(family_id, num, num_threads=count, split="test", max_episode_steps=9, **arguments)
        results.append(rollout(envs, random_actions(envs, 15), seed=4))
        envs.close()
    for other in results[1:]:
        assert_same(results[0], other)


@pytest.mark.long
@each_plain_body
def test_rows_do_not_depend_on_how_many_there_are(family_id, arguments):
    tasks = some_tasks(family_id, 5)
    many = make_native(family_id, 5, tasks=tasks, max_episode_steps=9, **arguments)
    actions = random_actions(many, 21)
    together = rollout(many, actions, seed=20)
    for i, task in enumerate(tasks):
        one = make_native(family_id, 1, task=task, max_episode_steps=9, **arguments)
        alone = rollout(one, actions[:, i : i + 1], seed=20 + i)
        row = [
            tuple({k: v[i : i + 1] for k, v in x.items()} if isinstance(x, dict) else x[i : i + 1] for x in r)
            for r in together
        ]
        assert_same(row, alone)


@pytest.mark.long
@RESETTING
@each_kind
def test_gymnasiums_vector_wrappers_work(family_id, mode):
    """Episode statistics over the native environment are those over Gymnasium's own."""
    native, factories = _native_and_factories(family_id, mode, 5)
    sync = SyncVectorEnv(factories, autoreset_mode=mode)
    actions = random_actions(native, 14)
    found = []
    for envs in (native, sync):
        envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
        found.append(rollout(envs, actions, seed=0))
        assert len(envs.return_queue) == 2 * N
    for a, b in zip(*found, strict=True):
        for result in (a, b):
            result[-1].get("episode", {}).pop("t", None)  # seconds
            result[-1].get("episode", {}).pop("_t", None)
        assert_same(a, b)


@pytest.mark.long
@each_id
def test_seeds_make_the_difference(family_id):
    """The comparisons above can fail: other seeds or tasks give other numbers."""
    assert IDS
    tasks = some_tasks(family_id, N)
    envs = make_native(family_id, N, tasks=tasks, observe_task=True)
    actions = random_actions(envs, 4)
    first = rollout(envs, actions, seed=0)
    assert difference(first, rollout(envs, actions, seed=0)) is None
    assert difference(first, rollout(envs, actions * 0.5, seed=0)) is not None
    other = gymnasium.make_vec(family_id, num_envs=N, tasks=tasks[::-1], observe_task=True)
    assert difference(first, rollout(other, actions, seed=0)) is not None
