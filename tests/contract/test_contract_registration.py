"""Contract 1 and 7: making environments by id, their specification, Gymnasium's own checks."""

import json
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from contract_helpers import (
    BODY_IDS,
    ENGINE_IDS,
    IDS,
    KIND_IDS,
    assert_same,
    each_body_variant,
    each_id,
    each_kind,
    each_variant,
    make_native,
    random_actions,
    rollout,
    slow_unless,
)
from gymnasium.utils.env_checker import check_env

import metarl_envs
from metarl_envs.pages.page import page


def test_there_are_ids_and_each_is_registered():
    assert len(IDS) >= 5
    assert tuple(sorted(IDS)) == IDS
    assert set(IDS) <= set(gymnasium.registry)


@each_id
def test_make_is_usable_at_once(family_id):
    env = gymnasium.make(family_id)
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert info["task_id"] == 0
    observation, reward, *_ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
    assert isinstance(reward, float)
    assert isinstance(env.unwrapped, metarl_envs.MetaEnv)
    env.close()


@pytest.mark.process
def test_module_prefix_imports_and_makes_ids():
    code = (
        "import gymnasium\n"
        f"for family_id in {KIND_IDS!r}:\n"
        "    env = gymnasium.make('metarl_envs:' + family_id)\n"
        "    observation, info = env.reset(seed=0)\n"
        "    env.step(env.action_space.sample())\n"
        "    envs = gymnasium.make_vec('metarl_envs:' + family_id, num_envs=2)\n"
        "    envs.reset(seed=0)\n"
        "    envs.step(envs.action_space.sample())\n"
        "    print(family_id)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(KIND_IDS)


@each_id
def test_make_vec_takes_the_native_environment_by_default(family_id):
    envs = gymnasium.make_vec(family_id, num_envs=3)
    assert isinstance(envs.unwrapped, metarl_envs.MetaVectorEnv)
    assert envs.num_envs == 3
    assert envs.spec.id == family_id
    envs.close()


@each_variant
def test_keyword_arguments_are_stored_in_the_spec(family_id, arguments):
    given = {"split": "test", "task": 1, "observe_task": True, **arguments}
    env = gymnasium.make(family_id, max_episode_steps=9, render_mode="rgb_array", **given)
    assert given.items() <= env.spec.kwargs.items()
    assert env.spec.kwargs["render_mode"] == "rgb_array"
    assert env.spec.max_episode_steps == 9
    assert env.get_wrapper_attr("get_task")() == metarl_envs.family(family_id).task("test", 1)


@pytest.mark.parametrize("form", ["index", "task", "dict", "off-table task"])
@each_kind
def test_spec_round_trips_through_json(family_id, form):
    family = metarl_envs.family(family_id)
    task = family.task("test", 1)
    if form == "off-table task" and not family.train_equals_test:
        task = family.sample_tasks(1, np.random.default_rng(0), "test")[0]
    given = {"index": 1, "task": task, "dict": task.to_dict(), "off-table task": task}[form]
    env = gymnasium.make(family_id, split="test", task=given, max_episode_steps=4, observe_task=True)
    text = env.spec.to_json()
    json.loads(text)
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(text))
    assert again.unwrapped.get_task() == task
    assert again.spec.max_episode_steps == 4
    actions = random_actions(env, 4)
    assert_same(rollout(env, actions, seed=3), rollout(again, actions, seed=3))


@each_kind
def test_vector_spec_makes_the_same_environment(family_id):
    tasks = metarl_envs.family(family_id).tasks("test")[:2]
    envs = make_native(family_id, 3, split="test", task=tasks[1], max_episode_steps=3)
    again = gymnasium.make_vec(gymnasium.envs.registration.EnvSpec.from_json(envs.spec.to_json()))
    assert again.num_envs == 3
    assert again.tasks == envs.tasks == (tasks[1],) * 3
    actions = random_actions(envs, 5)
    assert_same(rollout(envs, actions, seed=3), rollout(again, actions, seed=3))


@each_id
def test_max_episode_steps_is_honoured(family_id):
    single = gymnasium.make(family_id, max_episode_steps=5)
    ends = [result[2:4] for result in rollout(single, random_actions(single, 5), seed=0)[1:]]
    assert ends == [(False, False)] * 4 + [(False, True)]
    for envs in (
        gymnasium.make_vec(family_id, num_envs=2, max_episode_steps=5),
        metarl_envs.MetaVectorEnv(family_id, 2, max_episode_steps=5),
    ):
        ends = [result[3].tolist() for result in rollout(envs, random_actions(envs, 5), seed=0)[1:]]
        assert ends == [[False, False]] * 4 + [[True, True]]
        envs.close()


@pytest.mark.long
@each_id
def test_horizon_is_the_default_time_limit(family_id):
    horizon = metarl_envs.family(family_id).horizon
    assert gymnasium.spec(family_id).max_episode_steps == horizon
    assert gymnasium.make(family_id).spec.max_episode_steps == horizon
    envs = metarl_envs.MetaVectorEnv(family_id, 2)
    results = rollout(envs, random_actions(envs, horizon), seed=0)
    elapsed = np.zeros(2, int)
    pending = np.zeros(2, bool)
    for _, _, terminated, truncated, _ in results[1:]:
        elapsed = np.where(pending, 0, elapsed + 1)
        assert truncated.tolist() == (elapsed == horizon).tolist()
        pending = terminated | truncated
    envs.close()


def _check(family_id, skip_render_check, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(family_id, split="test", **arguments)
        check_env(env.unwrapped, skip_render_check=skip_render_check)
        # The whole stack of wrappers too; that it is one is all the checker may say of it.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env, skip_render_check=skip_render_check)


@pytest.mark.parametrize(
    ("family_id", "arguments", "observe_task"),
    slow_unless(
        lambda i, arguments, observed: not observed or (i in BODY_IDS and not arguments), (False, True)
    ),
)
def test_check_env_passes_without_a_warning(family_id, arguments, observe_task):
    _check(family_id, skip_render_check=True, observe_task=observe_task, **arguments)


@pytest.mark.long
@pytest.mark.parametrize(
    ("family_id", "arguments", "observe_task"),
    slow_unless(
        lambda i, arguments, observed: i in ENGINE_IDS and not arguments and not observed, (False, True)
    ),
)
def test_check_env_with_rendering_passes_without_a_warning(family_id, arguments, observe_task):
    _check(family_id, skip_render_check=False, observe_task=observe_task, **arguments)


@pytest.mark.long
@each_body_variant
def test_passive_checker_is_silent(family_id, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(family_id, max_episode_steps=10, disable_env_checker=False, **arguments)
        for seed in (0, None):
            rollout(env, np.clip(random_actions(env, 10), -1, 1), seed=seed)
        env.close()
        for mode in ("sync", "vector_entry_point"):
            envs = gymnasium.make_vec(
                family_id, num_envs=2, vectorization_mode=mode, max_episode_steps=4, **arguments
            )
            rollout(envs, np.clip(random_actions(envs, 10), -1, 1), seed=0)
            envs.close()


@each_variant
def test_page_names_every_info_key_and_argument(family_id, arguments):
    family = metarl_envs.family(family_id)
    text = page(family)
    env = metarl_envs.MetaEnv(family_id, **arguments)
    _, info = env.reset(seed=0)
    missing = [key for key in info if f"`{key}`" not in text]
    assert not missing, f"the page of {family_id} does not name {missing} of {arguments or 'the defaults'}"
    for name in ("split", "task", "observe_task", "render_mode", *family.arguments):
        assert f"`{name}`" in text
    for part in (family.id, family.title, str(family.horizon), *family.parameter_names):
        assert part in text
    for row in family.provenance:
        assert row["variant"] in text
