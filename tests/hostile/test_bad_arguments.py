"""Wrong arguments of environments, tasks, states and evaluations: one sentence that says what is allowed."""

import copy

import numpy as np
import pytest

import metarl_envs
from metarl_envs import MetaEnv, MetaVectorEnv, Task, evaluation

ID = "MetaPoint-Goal-v0"


@pytest.fixture(scope="module")
def single():
    return MetaEnv(ID)


@pytest.fixture
def vector():
    env = MetaVectorEnv(ID, 3)
    env.reset(seed=0)
    yield env
    env.close()


def task(*parameters, index=-1):
    return Task(ID, "train", index, parameters)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, v: MetaEnv(5), "a family is given as its id or as a Family, got 5"),
        (lambda e, v: MetaVectorEnv(None, 2), "a family is given as its id"),
        (lambda e, v: MetaEnv(ID, observe_task="no"), "observe_task must be True or False, got 'no'"),
        (lambda e, v: MetaVectorEnv(ID, 2, num_threads=10**6), "num_threads must be at most 1,024"),
        (lambda e, v: MetaVectorEnv(ID, 10**12), "num_envs must be at most 1,000,000"),
        (lambda e, v: e.reset(options=5), "options must be None or a dict, got 5"),
        (lambda e, v: v.reset(options=[1]), "options must be None or a dict"),
        (lambda e, v: v.reset(seed=np.array(5)), "a seed is None or a non-negative integer"),
        (lambda e, v: e.reset(seed=b"ab"), "a seed is None or a non-negative integer"),
        (lambda e, v: v.reset(seed="abc"), "a seed is None or a non-negative integer"),
        (lambda e, v: e.sample_tasks("a"), "number of tasks must be a whole number of at least 0, got 'a'"),
        (lambda e, v: v.sample_tasks(True), "number of tasks must be a whole number"),
        (lambda e, v: e.set_task(task(1e300, 0.0)), r"must be from \[-1.0, -1.0\] to \[1.0, 1.0\], got"),
        (lambda e, v: v.set_tasks([task(0.0, -1.5)] * 3), "must be from"),
        (lambda e, v: task(10**400, 0.0), "must be finite, got one that is too large"),
        (lambda e, v: task("0.1", 0.0), "must be a list of numbers"),
        (lambda e, v: task(True, 0.0), "must be a list of numbers"),
        (lambda e, v: Task(ID, "train", -1, "ab"), "must be a list of numbers"),
        (lambda e, v: task(0.1, 0.0, index=True), "index must be an integer, got True"),
        (lambda e, v: task(0.1, 0.0, index=0.5), "index must be an integer, got 0.5"),
        (lambda e, v: Task(ID, 3, -1, (0.1, 0.2)), "family and split must be strings"),
        (
            lambda e, v: evaluation.evaluate(evaluation.ZeroAgent(), ID, "pearl"),
            "protocol must be a Protocol",
        ),
    ],
)
def test_one_sentence(call, message, single, vector):
    with pytest.raises(ValueError, match=message):
        call(single, vector)


def test_numbers_of_any_type_are_copied_exactly():
    made = task(np.float32(0.1), 1, index=np.int64(-1))
    assert made.parameters == (float(np.float32(0.1)), 1.0)
    assert [type(value) for value in (*made.parameters, made.index)] == [float, float, int]
    assert made == Task.from_dict(made.to_dict())
    assert Task(ID, "train", -1, np.array([0.5, 0.25])).parameters == (0.5, 0.25)


def test_tasks_of_every_table_are_within_their_familys_bounds():
    for env_id in metarl_envs.registered_ids():
        family = metarl_envs.family(env_id)
        for split in family.splits:
            sampled = family.sample_tasks(20, np.random.default_rng(0), split)
            for made in (*family.tasks(split), *sampled):
                assert family.resolve_task(made, split) == made


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("elapsed", [-1, 0, 0], "elapsed steps must not be negative"),
        ("elapsed", [0.5, 0, 0], "elapsed must be whole numbers"),
        ("elapsed", [2**70, 0, 0], "elapsed must be whole numbers"),
        ("ended", [2, 0, 0], "ended must be booleans"),
        ("ended", ["no"] * 3, "ended must be booleans"),
        ("started", [1.0] * 3, "started must be booleans"),
        ("observation", [[1e300] * 2] * 3, "must be finite, but observation has NaN or infinity"),
        ("observation", "x", "observation must be numbers"),
        ("physics", None, "physics must be numbers"),
        (
            "generators",
            [{"bit_generator": "PCG64", "state": {"state": -1, "inc": 1}}] * 3,
            "a generator's state",
        ),
        ("generators", [5] * 3, "a generator's state"),
        ("generators", 5, "tasks and generators must be lists"),
        ("tasks", b"a", "tasks and generators must be lists"),
        ("tasks", [0, 0, 0], "tasks must be dicts"),
        ("np_random_seed", "a", "np_random_seed must be None or an integer"),
        ("np_random", {"bit_generator": "PCG64", "state": 3}, "a generator's state"),
    ],
)
def test_a_refused_state_changes_nothing(key, value, message, vector):
    before = vector.get_state()
    with pytest.raises(ValueError, match=message):
        vector.set_state(copy.deepcopy(before) | {key: value})
    after = vector.get_state()
    assert after.keys() == before.keys()
    for name, kept in before.items():
        assert np.array_equal(after[name], kept) if isinstance(kept, np.ndarray) else after[name] == kept
