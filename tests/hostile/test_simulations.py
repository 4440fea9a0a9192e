"""Simulations that become unstable, and what closed environments leave behind."""

import os
from pathlib import Path

import numpy as np
import pytest
from representatives import BODY_IDS, ENGINE_IDS, MUJOCO_IDS

from metarl_envs import MetaVectorEnv

UNSTABLE_IDS = [i for i in BODY_IDS if i in MUJOCO_IDS]


def engine_of(env):
    return env._core.body.engine


def huge_velocity(engine):
    engine.qvel[0] = 1e12


def huge_position(engine):
    engine.qpos[0] = 1e12


def no_number(engine):
    engine.qvel[0, -1] = np.nan


def huge_acceleration(engine):
    engine.qvel[0] = 1e9


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("family_id", UNSTABLE_IDS)
def test_an_unstable_simulation_is_reported_and_nothing_else(family_id, num, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = MetaVectorEnv(family_id, num, num_threads=1, autoreset_mode="Disabled")
    actions = np.zeros(env.action_space.shape)
    for disturb in (huge_velocity, huge_position, no_number, huge_acceleration):
        env.reset(seed=0)
        disturb(engine_of(env))
        obs, _, terminated, _, info = env.step(actions)
        assert info["diverged"].tolist() == terminated.tolist() == [True] + [False] * (num - 1), disturb
        assert np.isfinite(obs).all()
        env.reset(options={"reset_mask": info["diverged"]})
        assert not env.step(actions)[4]["diverged"].any()
    assert not list(Path().iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("num", [1, 3])
def test_an_absurd_start_leaves_no_mark(num):
    """Placing already counts what is unstable there; an episode that starts afterwards is not."""
    env = MetaVectorEnv("MetaBall-MoveBox-v0", num, num_threads=1)
    env.reset(seed=0)
    engine = engine_of(env)
    absurd = np.full((num, engine.model.nq), 1e300)
    engine.place(np.arange(num), absurd, np.full((num, engine.model.nv), 1e300))
    env.reset(seed=0)
    assert not env.step(np.zeros(env.action_space.shape))[4]["diverged"].any()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads by Linux's /proc")
@pytest.mark.parametrize("family_id", [i for i in ENGINE_IDS if i in MUJOCO_IDS])
def test_a_closed_environment_has_no_threads(family_id):
    def threads():
        return len(os.listdir("/proc/self/task"))

    def used():
        env = MetaVectorEnv(family_id, 4, num_threads=3)
        env.reset(seed=0)
        env.step(np.zeros(env.action_space.shape))
        return env

    used().close()  # libraries may start threads of their own at first
    before = threads()
    env = used()
    assert threads() == before + 2
    env.close()
    env.close()
    assert threads() == before
