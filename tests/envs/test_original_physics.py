"""What the originals' engines did that their files do not say, and the rows of provenance that tell of it."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

import metarl_envs

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


def _vectors(family_id, split):
    return np.array([task.parameters for task in metarl_envs.family(family_id).tasks(split)])


CURRENT = ("MetaHalfCheetah-Vel-v0", "MetaHalfCheetah-Dir-v0", "MetaHalfCheetah-VelOODMedium-v0",
           "MetaHalfCheetah-VelOODHard-v0", "MetaAnt-Goal-v0", "MetaAnt-Dir-v0",
           "MetaAnt-Dir2D-v0")  # fmt: skip
LEGACY = (
    "MetaHalfCheetah-DirShort-v0",
    "MetaHalfCheetah-VelShort-v0",
    "MetaHalfCheetah-VelShortFull-v0",
)
CHEETAH_MASSES = {  # kg: torso with head, back thigh, shin, foot, front thigh, shin, foot
    "current": (6.2502092, 1.5435146, 1.5874477, 1.0953975, 1.4380753, 1.2008368, 0.8845188),
    "legacy": (6.3603133, 1.5352480, 1.5809400, 1.0691906, 1.4255875, 1.1788512, 0.8498695),
}
CHEETAH_TORSO = {  # principal inertias in kg·m², centre of mass in m
    "current": ((0.897118, 0.885655, 0.0179609), (0.15239, 0.0, 0.025398)),
    "legacy": ((0.894454, 0.883565, 0.0176178), (0.149138, 0.0, 0.0248563)),
}
ANT_SEGMENTS = {  # mass, inertia across and along: upper, lower
    "current": ((0.03915775, 5.67966e-4, 1.18442e-4), (0.06759220, 2.67479e-3, 2.09432e-4)),
    "legacy": ((0.03647693, 4.58560e-4, 1.16726e-4), (0.06491138, 2.35904e-3, 2.07716e-4)),
}


@pytest.mark.parametrize("inertia", ["legacy", "current"])
@pytest.mark.parametrize("family_id", [*CURRENT, *LEGACY])
def test_capsules_have_the_inertias_of_the_engine_asked_for(family_id, inertia):
    """The legacy masses were checked against figures of unrelated code that quotes the old engines."""
    model = metarl_envs.MetaEnv(family_id, inertia=inertia)._core.body.model
    if "Ant" in family_id:
        upper, lower = ANT_SEGMENTS[inertia]
        for k in range(4):
            for body, (mass, across, along) in ((2 + 3 * k, upper), (3 + 3 * k, upper), (4 + 3 * k, lower)):
                assert model.body_mass[body] == pytest.approx(mass, rel=1e-6)
                np.testing.assert_allclose(model.body_inertia[body], [across, across, along], rtol=1e-5)
        assert model.body_mass[1] == pytest.approx(0.32724923, rel=1e-7)
        return
    np.testing.assert_allclose(model.body_mass[1:], CHEETAH_MASSES[inertia], rtol=1e-7)
    assert model.body_mass.sum() == pytest.approx(14.0, rel=1e-12)
    assert model.body_subtreemass[0] == pytest.approx(14.0, rel=1e-12)
    inertias, centre = CHEETAH_TORSO[inertia]
    np.testing.assert_allclose(model.body_inertia[1], inertias, rtol=5e-6)
    np.testing.assert_allclose(model.body_ipos[1], centre, atol=1e-6)


def test_the_rllab_lineage_has_its_engines_inertias_by_default():
    for families, default in ((CURRENT, "current"), (LEGACY, "legacy")):
        for family_id in families:
            argument = metarl_envs.family(family_id).arguments["inertia"]
            assert (argument.default, set(argument.choices)) == (default, {"current", "legacy"})
            assert argument.changes_model
            masses = metarl_envs.MetaEnv(family_id)._core.body.model.body_mass
            chosen = metarl_envs.MetaEnv(family_id, inertia=default)._core.body.model.body_mass
            np.testing.assert_array_equal(masses, chosen)
    with pytest.raises(ValueError, match="inertia of MetaAnt-Goal-v0 must be one of 'legacy', 'current'"):
        metarl_envs.MetaEnv("MetaAnt-Goal-v0", inertia="old")


@pytest.mark.parametrize("family_id", CURRENT)
def test_the_rows_of_originals_state_the_masses_under_both_rules(family_id):
    """Torso and front foot of the cheetahs, upper segments of the ants."""
    if "Ant" in family_id:
        masses = {inertia: (segments[0][0],) for inertia, segments in ANT_SEGMENTS.items()}
    else:
        masses = {inertia: (every[0], every[-1]) for inertia, every in CHEETAH_MASSES.items()}
    row = metarl_envs.family(family_id).provenance[0]
    for current, legacy in zip(masses["current"], masses["legacy"], strict=True):
        assert f"{current:#.3g} kg instead of {legacy:#.3g} kg" in row["differs"]
    assert "inertia='legacy'" in row["differs"]
    assert "except the inertias of capsules" in row["same"]
    assert "physics" not in row["same"]


@pytest.mark.parametrize("family_id", [*CURRENT, *LEGACY])
def test_the_inertias_change_the_motion(family_id):
    """An open-loop gait from the same start goes elsewhere within two seconds."""
    ends = []
    for inertia in ("legacy", "current"):
        envs = metarl_envs.MetaVectorEnv(family_id, 1, inertia=inertia, autoreset_mode="Disabled")
        envs.reset(seed=0)
        phases = np.arange(envs.action_space.shape[1])
        for step in range(10):
            info = envs.step(0.8 * np.sin(0.3 * step + phases)[None])[4]
        ends.append(info["x_position"][0])
    assert abs(ends[0] - ends[1]) > 1e-5


def test_humanoid_contacts_start_at_a_millimetre():
    """The original's engine took the larger of two margins of 1 mm; today's adds them."""
    theirs = mujoco.MjModel.from_xml_path(str(ASSETS / "humanoid.xml"))
    model = metarl_envs.MetaEnv("MetaHumanoid-Dir2D-v0")._core.body.model
    np.testing.assert_array_equal(theirs.geom_margin[:2], 0.001)
    np.testing.assert_array_equal(model.geom_margin, theirs.geom_margin / 2)
    floor, data = model.geom("floor").id, mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    limbs = [i for i in range(model.ngeom) if i != floor]
    gap = min(mujoco.mj_geomDistance(model, data, floor, i, 9.0, None) for i in limbs)
    for distance, touches in ((0.0015, False), (0.00101, False), (0.00099, True)):
        data.qpos[2] = model.qpos0[2] - gap + distance
        mujoco.mj_forward(model, data)
        contacts = [c for c in data.contact if floor in c.geom]
        assert bool(contacts) is touches


def _lags(family_id, field, read):
    """How far the integrator's last evaluation is from the new state, per random step."""
    envs = metarl_envs.MetaVectorEnv(family_id, 1, autoreset_mode="SameStep")
    body = envs._core.body
    body.engine.derived(field)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    data, found = mujoco.MjData(body.model), []
    for _ in range(150):
        envs.step(envs.action_space.sample())
        if envs._core.elapsed[0] == 0:
            continue  # a restart
        last = read(body.engine.derived(field)[0]).copy()
        data.qpos[:] = body.engine.qpos[0]
        mujoco.mj_kinematics(body.model, data)
        mujoco.mj_comPos(body.model, data)
        found.append(np.abs(read(getattr(data, field)) - last).max())
    return np.array(found)


def test_what_lags_by_a_substep_and_what_does_not():
    """Euler's last evaluation is a substep old; the Runge-Kutta one, of ant and humanoid, hardly differs."""
    torso = lambda values: values[1, :2]  # noqa: E731
    assert 1e-5 < np.mean(_lags("MetaAnt-Goal-v0", "xpos", torso)) < 5e-4
    assert 1e-7 < np.mean(_lags("MetaHumanoid-Dir2D-v0", "subtree_com", torso)) < 1e-5
    assert np.mean(_lags("MetaHalfCheetah-Vel-v0", "xpos", torso)) > 2e-3
    for family_id in ("MetaAnt-Goal-v0", "MetaAnt-Dir-v0", "MetaHumanoid-Dir2D-v0"):
        rows = metarl_envs.family(family_id).provenance
        assert not any("substep" in text for row in rows for text in row.values())


@pytest.mark.long
def test_the_wheeled_robots_row_states_what_its_reward_does_not_lag():
    """At full speed the original's position, one Euler step old, is 0.049 of reward from ours."""
    envs = metarl_envs.MetaVectorEnv("MetaWheeled-Goal-v0", 100)
    engine = envs._core.body.engine
    engine.derived("xpos")
    envs.reset(seed=0)
    goals = _vectors("MetaWheeled-Goal-v0", "train")
    largest = 0.0
    for _ in range(199):
        _, _, _, _, info = envs.step(np.ones((100, 2)))
        old = np.hypot(*(engine.derived("xpos")[:, 1, :2] - goals).T)
        largest = max(largest, np.abs(info["reward_goal"] + old).max())
    assert largest == pytest.approx(0.049, abs=5e-4)
    assert (
        "up to 0.049 of reward per step" in metarl_envs.family("MetaWheeled-Goal-v0").provenance[0]["differs"]
    )


def test_the_goals_that_a_two_link_reacher_cannot_reach():
    nearest = np.sqrt(0.75**2 + 0.95**2 + 2 * 0.75 * 0.95 * np.cos(np.radians(160)))
    assert nearest == pytest.approx(0.355, abs=5e-4)
    counts = [
        (np.hypot(*_vectors("MetaReacher2-Goal-v0", split).T) < nearest).sum() for split in ("train", "test")
    ]
    assert counts == [8, 9]
    summary = " ".join(metarl_envs.family("MetaReacher2-Goal-v0").summary.split())
    assert "nearer than 0.355 m (8 of the 100 training and 9 of the 100 test goals)" in summary


@pytest.mark.parametrize(
    ("family_id", "variant", "same", "not_same", "differs"),
    [
        ("MetaHalfCheetah-Vel-v0", "PEARL", "the 130 velocities", "physics", "6.25 kg"),
        ("MetaHalfCheetah-Vel-v0", "VariBAD", "range [0, 3]", "split", "neither the 130 velocities"),
        ("MetaHalfCheetah-Dir-v0", "PEARL", "inertia='legacy'", "physics", "-25 with the original's"),
        ("MetaAnt-Goal-v0", "PEARL / MQL (", "150 / 30", "ProMP", "travels 4.20 m"),
        ("MetaAnt-Goal-v0", "ProMP", "goal distribution", "150", "anew at each iteration"),
        ("MetaAnt-Dir2D-v0", "ProMP", "reward", "termination", "heights outside [0, 1]"),
        ("MetaAnt-VelShortFull-v0", "MAML", "reward", "[0, 3]", "velocities in [0, 3]"),
        ("MetaHumanoid-Dir2D-v0", "PEARL", "termination", "hip", "margins are halved"),
        ("MetaHalfCheetah-VelShort-v0", "multi-task SLBO", "physics", "inertia", "inertia='current'"),
    ],
)
def test_rows_of_provenance_that_an_audit_corrected(family_id, variant, same, not_same, differs):
    rows = [r for r in metarl_envs.family(family_id).provenance if r["variant"].startswith(variant)]
    assert len(rows) == 1
    assert same in rows[0]["same"]
    assert not_same not in rows[0]["same"]
    assert differs in rows[0]["differs"]
    assert "hip range" not in rows[0]["differs"]
