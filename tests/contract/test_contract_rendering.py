"""Contract 10: frames without a display, the goal drawn, the renderer made when it is needed."""

import copy
import gc
import os
import pickle
import subprocess
import sys

import gymnasium
import mujoco
import numpy as np
import pytest
from contract_helpers import (
    DYNAMICS_IDS,
    ENGINE_IDS,
    FRAME,
    IDS,
    assert_same,
    each_body,
    each_engine,
    each_mujoco_body,
    each_mujoco_engine,
    each_plain_body,
    make_native,
    random_actions,
    rollout,
)

import metarl_envs
from metarl_envs.simulation import rendering

pytestmark = pytest.mark.long


def _check_frame(frame, size=FRAME):
    assert isinstance(frame, np.ndarray)
    assert frame.shape == (size, size, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 1.0


def _assert_same_frame(a, b):
    """The same picture, but for edges: software renderers shade some differently in another context."""
    differing = (a != b).any(axis=-1)
    largest = np.abs(a.astype(int) - b).max()
    assert differing.mean() < 0.005, f"{differing.mean():.4%} of the pixels differ, by up to {largest}"


def _frame(env, task):
    """A frame of a task after some steps: then even a marker that moves with time has left its start."""
    env.reset(seed=0, options={"task": task})
    rollout(env, random_actions(env, 5), reset=False)
    return env.render()


def _drawn(family_id):
    return metarl_envs.MetaEnv(family_id, split="test", render_mode="rgb_array")


@each_plain_body
def test_single_frames(family_id, arguments):
    env = gymnasium.make(family_id, render_mode="rgb_array", **arguments)
    env.reset(seed=0)
    first = env.render()
    _check_frame(first)
    rollout(env, random_actions(env, 5), reset=False)
    second = env.render()
    _check_frame(second)
    assert (first != second).any()
    env.close()


@pytest.mark.full_frames
@each_engine
def test_frames_have_the_documented_size(family_id):
    env = metarl_envs.MetaEnv(family_id, render_mode="rgb_array")
    envs = make_native(family_id, 2, render_mode="rgb_array")
    for e in (env, envs):
        e.reset(seed=0)
    frames = envs.render()
    assert len(frames) == 2
    for frame in (env.render(), *frames):
        _check_frame(frame, 480)


@each_body
def test_no_frame_without_a_render_mode(family_id):
    env = gymnasium.make(family_id)
    env.reset(seed=0)
    assert metarl_envs.MetaEnv(family_id).render() is None
    assert make_native(family_id, 2).render() is None


@each_engine
def test_vector_frames(family_id):
    envs = make_native(family_id, 3, split="test", render_mode="rgb_array")
    actions = random_actions(envs, 1)  # no episode ends in it
    rollout(envs, actions, seed=0)
    frames = envs.render()
    assert len(frames) == 3
    for i, frame in enumerate(frames):
        _check_frame(frame)
        env = metarl_envs.MetaEnv(family_id, split="test", task=envs.tasks[i], render_mode="rgb_array")
        rollout(env, actions[:, i], seed=i)
        _assert_same_frame(env.render(), frame)
        env.close()
    envs.close()


@each_body
def test_the_goal_is_drawn(family_id):
    """Frames of one state differ between tasks, and for one task they are the same."""
    tasks = metarl_envs.family(family_id).tasks("test")[:8]
    env, other = _drawn(family_id), _drawn(family_id)
    frames = [_frame(env, task) for task in tasks]
    _assert_same_frame(_frame(other, tasks[0]), frames[0])
    for i, a in enumerate(frames):
        for j, b in enumerate(frames[:i]):
            assert (a != b).any(), f"tasks {tasks[j].parameters} and {tasks[i].parameters} look the same"


@each_body
def test_a_changed_task_is_drawn(family_id):
    tasks = metarl_envs.family(family_id).tasks("test")
    env = metarl_envs.MetaEnv(family_id, split="test", task=tasks[0], render_mode="rgb_array")
    rollout(env, random_actions(env, 5), seed=0)
    first = env.render()
    env.set_task(tasks[1])
    if family_id in DYNAMICS_IDS:  # what is drawn is the direction to run in
        assert_same(env.render().shape, first.shape)
        return
    assert (env.render() != first).any()
    if metarl_envs.family(family_id).objective == "on_target":
        return  # the other task may have started elsewhere, or ended
    changed = env.render()
    _assert_same_frame(changed, _frame(env, tasks[1]))


@each_body
def test_frames_are_fresh_and_change_nothing(family_id):
    env, twin = (metarl_envs.MetaEnv(family_id, render_mode="rgb_array") for _ in range(2))
    assert_same(env.reset(seed=0), twin.reset(seed=0))
    for action in random_actions(env, 4):
        frame = env.render()
        kept = frame.copy()
        frame[:] = 0
        _assert_same_frame(env.render(), kept)
        assert_same(env.get_state(), twin.get_state())
        assert_same(env.step(action), twin.step(action))


@each_engine
def test_environments_that_were_drawn_can_be_copied(family_id):
    for env in (
        metarl_envs.MetaEnv(family_id, render_mode="rgb_array"),
        make_native(family_id, 2, render_mode="rgb_array"),
    ):
        rollout(env, random_actions(env, 4), seed=0)
        frame = env.render()
        for again in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
            _assert_same_frame(np.stack(again.render()), np.stack(frame))
            again.close()
        _assert_same_frame(np.stack(env.render()), np.stack(frame))
        env.close()


@pytest.mark.parametrize(
    ("family_id", "how"),
    [
        # Each engine in one way, and one of them in all ways.
        pytest.param(i, how, marks=() if i in among else pytest.mark.slow)
        for i in IDS
        for how, among in (
            ("closed", ENGINE_IDS),
            ("dropped", ENGINE_IDS[:1]),
            ("collected while drawing", ENGINE_IDS[:1]),
        )
    ],
)
def test_environments_do_not_disturb_each_others_frames(family_id, how, monkeypatch):
    """Whatever happens to one environment, and whenever, another goes on drawing what it drew."""
    another = IDS[IDS.index(family_id) - 1]
    env, other = (metarl_envs.MetaEnv(i, render_mode="rgb_array") for i in (family_id, another))
    env.reset(seed=0)
    frame = env.render()
    other.reset(seed=1)
    other.render()
    _assert_same_frame(env.render(), frame)
    if how == "closed":
        other.close()
    elif how == "dropped":
        del other
    else:
        other.itself = other  # only the garbage collector frees it, and it runs when it likes
        del other
        real = mujoco.mjr_render

        def collect_and_render(*args):
            gc.collect()
            return real(*args)

        monkeypatch.setattr(mujoco, "mjr_render", collect_and_render)
    for _ in range(2):
        _assert_same_frame(env.render(), frame)
    env.close()


@each_mujoco_engine
def test_the_context_is_made_at_the_first_frame_and_shared(family_id, monkeypatch):
    rendering.free_contexts()
    made = []
    real = mujoco.Renderer

    def counting(*args, **kwargs):
        made.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(mujoco, "Renderer", counting)
    env = gymnasium.make(family_id, render_mode="rgb_array")
    rollout(env, random_actions(env, 2), seed=0)
    assert not made
    env.render()
    assert len(made) == 1
    others = [env, *(metarl_envs.MetaEnv(family_id, split="test", render_mode="rgb_array") for _ in range(3))]
    for other in others:
        other.reset(seed=0)
        other.render()
    assert len(made) == 1


def test_no_more_contexts_than_allowed_are_kept():
    envs = [metarl_envs.MetaEnv(family_id, render_mode="rgb_array") for family_id in IDS]
    frames = []
    for _ in range(2):
        for env in envs:
            env.reset(seed=0)
            frames.append(env.render())
            assert len(rendering._mine().renderers) <= rendering.MOST_CONTEXTS
    for first, second in zip(frames, frames[len(envs) :], strict=False):
        _assert_same_frame(first, second)


@each_mujoco_body
def test_without_opengl_the_sentence_says_what_to_do(family_id, monkeypatch):
    rendering.free_contexts()

    def broken(*_, **__):
        raise ImportError("no OpenGL here")

    monkeypatch.setattr(mujoco, "Renderer", broken)
    env = metarl_envs.MetaEnv(family_id, render_mode="rgb_array")
    twin = metarl_envs.MetaEnv(family_id)
    actions = random_actions(env, 3)
    assert_same(rollout(env, actions, seed=0), rollout(twin, actions, seed=0))
    with pytest.raises(RuntimeError, match=r"(?s)EGL.*OSMesa.*MUJOCO_GL"):
        env.render()
    assert_same(env.step(actions[0]), twin.step(actions[0]))


HEADLESS = """
import gymnasium, metarl_envs, sys
kept = []
for family_id in sys.argv[2:]:
    env = gymnasium.make(family_id, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    frame = env.render()
    envs = gymnasium.make_vec(family_id, num_envs=2, render_mode="rgb_array")
    envs.reset(seed=0)
    print(family_id, frame.shape, frame.std() > 1, len(envs.render()))
    kept.append((env, envs))  # alive, with their renderers, when the interpreter ends
if sys.argv[1] == "close":
    for pair in kept:
        for env in pair:
            env.close()
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("how", "ids"),
    [
        pytest.param("close", ENGINE_IDS, id="close"),
        pytest.param("leave open", ENGINE_IDS, id="leave open"),
        pytest.param("close", IDS, id="close all", marks=pytest.mark.slow),
        pytest.param("leave open", IDS, id="leave all open", marks=pytest.mark.slow),
    ],
)
def test_headless_and_silent_to_the_end(how, ids):
    """Without a display and without a chosen backend; nothing is complained of, not even at exit."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", HEADLESS, how, *ids],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{i} (480, 480, 3) True 2" for i in ids]


@pytest.mark.process
def test_a_chosen_backend_is_kept():
    code = "import os, metarl_envs.env; print(os.environ['MUJOCO_GL'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "MUJOCO_GL": "osmesa"},
    )
    assert done.stdout.strip() == "osmesa", done.stderr


WITHOUT_OPENGL = """
import ctypes.util
ctypes.util.find_library = lambda name: None
import gymnasium, metarl_envs
env = gymnasium.make("MetaJaco-Reach-v0", render_mode="rgb_array")
env.reset(seed=0)
print(len(env.step(env.action_space.sample())))
try:
    env.render()
except RuntimeError as error:
    print(error)
"""


@pytest.mark.process
def test_without_opengl_everything_but_rendering_works():
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OPENGL],
        capture_output=True,
        text=True,
        timeout=60,
        env={k: v for k, v in os.environ.items() if k not in hidden},
    )
    assert done.returncode == 0, done.stderr
    steps, message = done.stdout.splitlines()
    assert steps == "5"
    assert message.startswith("rendering needs OpenGL: install EGL or OSMesa")
