"""Contract 9, bad input to a constructor: one exception with a sentence."""

import gymnasium
import pytest
from bad_input import BAD_TASKS, bad_tasks, refused
from contract_helpers import IDS, each_engine, each_id, each_kind

import metarl_envs


def _makers(family_id):
    return (
        lambda **kw: metarl_envs.MetaEnv(family_id, **kw),
        lambda **kw: gymnasium.make(family_id, **kw),
        lambda **kw: metarl_envs.MetaVectorEnv(family_id, 2, **kw),
        lambda **kw: gymnasium.make_vec(family_id, num_envs=2, **kw),
    )


@pytest.mark.long
@each_id
def test_unknown_split(family_id):
    for make in _makers(family_id):
        refused(lambda make=make: make(split="tets"), ("'tets'", "'train'", "'test'", "did you mean"))
        if metarl_envs.family(family_id).train_equals_test:
            words = ("no validation tasks", "both train and test", "'train'", "'test'")
            refused(lambda make=make: make(split="validation"), words)
        else:
            assert make(split="validation").unwrapped.get_task() is not None
            refused(lambda make=make: make(split="ood2"), ("'train'", "'validation'", "'test'"))
        refused(lambda make=make: make(split=None), ("'train'", "'test'"))


@each_kind
def test_unknown_argument(family_id):
    for make in _makers(family_id):
        refused(
            lambda make=make: make(observe_taks=True),
            # TorchRL looks for the first words.
            (
                "unexpected keyword argument 'observe_taks'",
                "'observe_task'",
                "did you mean",
                *metarl_envs.family(family_id).arguments,
            ),
        )


@each_kind
def test_unknown_argument_of_the_vector_environment(family_id):
    """What is allowed there includes the vector environment's own arguments."""
    for make in _makers(family_id)[2:]:
        refused(lambda make=make: make(num_thread=2), ("num_threads", "did you mean"))


@each_id
def test_argument_outside_its_choices(family_id):
    for argument in metarl_envs.family(family_id).arguments.values():
        for make in _makers(family_id):
            for value in ("nonsense", None, 17):
                refused(
                    lambda make=make, n=argument.name, v=value: make(**{n: v}),
                    (argument.name, *(repr(c) for c in argument.choices)),
                )


@pytest.mark.parametrize("name", BAD_TASKS)
@each_engine
def test_bad_task_at_construction(family_id, name):
    task, words = bad_tasks(family_id)[name]
    for make in _makers(family_id):
        refused(lambda make=make: make(task=task), words)


@each_kind
def test_bad_render_mode(family_id):
    for make in (_makers(family_id)[0], *_makers(family_id)[2:]):
        for mode in ("human", "rgb", 3):
            refused(lambda make=make, mode=mode: make(render_mode=mode), ("None", "'rgb_array'"))


@pytest.mark.parametrize("name", ["num_envs", "num_threads", "max_episode_steps"])
@each_kind
def test_bad_counts(family_id, name):
    for value in (0, -1, 2.0, True, "3"):
        given = {"num_envs": 2, name: value}
        refused(lambda given=given: metarl_envs.MetaVectorEnv(family_id, **given), (name, "positive integer"))


@each_kind
def test_bad_autoreset_mode(family_id):
    refused(
        lambda: metarl_envs.MetaVectorEnv(family_id, 2, autoreset_mode="sometimes"),
        ("autoreset_mode", "NextStep", "SameStep", "Disabled"),
    )


@each_kind
def test_bad_tasks_of_a_vector_environment(family_id):
    refused(lambda: metarl_envs.MetaVectorEnv(family_id, 3, tasks=[0, 1]), ("3", "2"))
    refused(lambda: metarl_envs.MetaVectorEnv(family_id, 2, tasks=[0, 1], task=0), ("task", "tasks", "both"))


def test_unknown_family():
    name = IDS[0].replace("Meta", "Mta")
    for make in (
        metarl_envs.family,
        metarl_envs.MetaEnv,
        lambda n: metarl_envs.MetaVectorEnv(n, 2),
    ):
        refused(lambda make=make: make(name), (name, IDS[0], "did you mean"))
        refused(lambda make=make: make("xyzzy"), ("'xyzzy'", *IDS))
