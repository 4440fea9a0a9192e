"""What the papers and the originals fix about each family, checked number by number."""

import numpy as np
import pytest

from metarl_envs import MetaVectorEnv, family

# id: observation, action, period in s, horizon; {split: (count, low, high per parameter)}
LAYOUT = {
    "MetaHalfCheetah-VelOODMedium-v0": (17, 6, 0.05),
    "MetaHalfCheetah-VelOODHard-v0": (17, 6, 0.05),
    "MetaHalfCheetah-DirShort-v0": (24, 6, 0.01),
    "MetaHalfCheetah-VelShort-v0": (24, 6, 0.01),
    "MetaHalfCheetah-VelShortFull-v0": (24, 6, 0.01),
    "MetaAnt-Dir-v0": (27, 8, 0.05),
    "MetaAnt-Dir2D-v0": (27, 8, 0.05),
    "MetaAnt-DirShort-v0": (44, 8, 0.02),
    "MetaAnt-VelShort-v0": (44, 8, 0.02),
    "MetaAnt-VelShortFull-v0": (44, 8, 0.02),
    "MetaAnt-VelShort2D-v0": (44, 8, 0.02),
    "MetaAnt-LowFriction-v0": (44, 8, 0.02),
    "MetaAnt-Crippled-v0": (44, 8, 0.02),
    "MetaAnt-GoalAnnulus-v0": (29, 8, 0.05),
    "MetaHumanoid-Dir2D-v0": (45, 17, 0.015),
    "MetaHumanoid-VelShort-v0": (39, 10, 0.01),
    "MetaHumanoid-VelShortFull-v0": (39, 10, 0.01),
    "MetaWalker2d-Params-v0": (17, 6, 0.016),
    "MetaHopper-Params-v0": (11, 3, 0.016),
    "MetaWheeled-Goal-v0": (9, 2, 0.05),
    "MetaReacher2-Goal-v0": (8, 2, 0.05),
    "MetaReacher4-Goal-v0": (14, 4, 0.05),
}
COUNTS = {
    "MetaHalfCheetah-VelOODMedium-v0": {"train": 100, "test": 30, "ood": 30},
    "MetaHalfCheetah-VelOODHard-v0": {"train": 100, "test": 30, "ood": 30},
    "MetaHalfCheetah-DirShort-v0": {"train": 2, "test": 2},
    "MetaHalfCheetah-VelShort-v0": {"train": 100, "test": 40, "ood": 40},
    "MetaHalfCheetah-VelShortFull-v0": {"train": 100, "test": 40},
    "MetaAnt-Dir-v0": {"train": 2, "test": 2},
    "MetaAnt-Dir2D-v0": {"train": 100, "test": 30},
    "MetaAnt-DirShort-v0": {"train": 2, "test": 2},
    "MetaAnt-VelShort-v0": {"train": 100, "test": 40, "ood": 40},
    "MetaAnt-VelShortFull-v0": {"train": 100, "test": 40},
    "MetaAnt-VelShort2D-v0": {"train": 100, "test": 40},
    "MetaAnt-LowFriction-v0": {"train": 2, "test": 2, "ood": 2},
    "MetaAnt-Crippled-v0": {"train": 2, "test": 2, "ood": 2},
    "MetaAnt-GoalAnnulus-v0": {"train": 100, "test": 100, "ood": 100},
    "MetaHumanoid-Dir2D-v0": {"train": 100, "test": 30},
    "MetaHumanoid-VelShort-v0": {"train": 100, "test": 40},
    "MetaHumanoid-VelShortFull-v0": {"train": 100, "test": 40},
    "MetaWalker2d-Params-v0": {"train": 40, "test": 10},
    "MetaHopper-Params-v0": {"train": 40, "test": 10},
    "MetaWheeled-Goal-v0": {"train": 100, "test": 100, "ood": 100},
    "MetaReacher2-Goal-v0": {"train": 100, "test": 100, "ood": 100},
    "MetaReacher4-Goal-v0": {"train": 100, "test": 100, "ood": 100},
}
RANGES = {
    ("MetaHalfCheetah-VelOODMedium-v0", "train"): (0.0, 2.5),
    ("MetaHalfCheetah-VelOODMedium-v0", "test"): (0.0, 2.5),
    ("MetaHalfCheetah-VelOODMedium-v0", "ood"): (2.5, 3.0),
    ("MetaHalfCheetah-VelOODHard-v0", "train"): (0.0, 1.5),
    ("MetaHalfCheetah-VelOODHard-v0", "ood"): (2.5, 3.0),
    ("MetaHalfCheetah-VelShort-v0", "train"): (0.0, 2.0),
    ("MetaHalfCheetah-VelShort-v0", "ood"): (-2.0, 0.0),
    ("MetaHalfCheetah-VelShortFull-v0", "train"): (-2.0, 2.0),
    ("MetaAnt-VelShort-v0", "train"): (0.0, 3.0),
    ("MetaAnt-VelShort-v0", "ood"): (-3.0, 0.0),
    ("MetaAnt-VelShortFull-v0", "train"): (-3.0, 3.0),
    ("MetaAnt-VelShort2D-v0", "train"): (-3.0, 3.0),
    ("MetaAnt-Dir2D-v0", "train"): (0.0, 2 * np.pi),
    ("MetaHumanoid-Dir2D-v0", "train"): (0.0, 2 * np.pi),
    ("MetaHumanoid-VelShort-v0", "train"): (0.0, 1.5),
    ("MetaHumanoid-VelShortFull-v0", "train"): (-1.5, 1.5),
}
CONTROL_COSTS = {
    "MetaHalfCheetah-VelOODMedium-v0": 0.05,
    "MetaHalfCheetah-VelShort-v0": 0.05,
    "MetaAnt-Dir-v0": 0.5,
    "MetaAnt-Dir2D-v0": 0.5,
    "MetaAnt-DirShort-v0": 0.005,
    "MetaAnt-VelShort2D-v0": 0.005,
    "MetaAnt-GoalAnnulus-v0": 0.0005,
    "MetaHumanoid-Dir2D-v0": 0.1 * 0.4**2,
    "MetaHumanoid-VelShort-v0": 0.0005,
    "MetaWalker2d-Params-v0": 0.001,
    "MetaHopper-Params-v0": 0.001,
    "MetaWheeled-Goal-v0": 0.0005,
    "MetaReacher2-Goal-v0": 0.0005,
    "MetaReacher4-Goal-v0": 0.0005,
}
ALIVE = {
    "MetaAnt-Dir-v0": 1.0,
    "MetaAnt-Dir2D-v0": 1.0,
    "MetaAnt-DirShort-v0": 0.05,
    "MetaAnt-VelShort-v0": 1.05,
    "MetaAnt-VelShort2D-v0": 2.05,
    "MetaHumanoid-Dir2D-v0": 5.0,
    "MetaHumanoid-VelShort-v0": 1.0,
    "MetaWalker2d-Params-v0": 1.0,
    "MetaHopper-Params-v0": 1.0,
}
TESP = ("MetaAnt-GoalAnnulus-v0", "MetaWheeled-Goal-v0", "MetaReacher2-Goal-v0", "MetaReacher4-Goal-v0")


def table(family_id, split):
    return np.array([task.parameters for task in family(family_id).tasks(split)])


@pytest.mark.parametrize("family_id", LAYOUT)
def test_layout(family_id):
    observation, action, period = LAYOUT[family_id]
    env = MetaVectorEnv(family_id, 1)
    assert env.single_observation_space.shape == (observation,)
    assert env.single_action_space.shape == (action,)
    assert env._core.body.dt == pytest.approx(period)
    assert env.family.horizon == 200
    validation = {} if env.family.train_equals_test else {"validation": 10}
    assert {name: split.count for name, split in env.family.splits.items()} == COUNTS[family_id] | validation


@pytest.mark.parametrize(("family_id", "split"), RANGES)
def test_ranges(family_id, split):
    low, high = RANGES[family_id, split]
    rows = table(family_id, split)
    assert rows.min() >= low
    assert rows.max() <= high
    # A hundred draws fill nine tenths of a range, or the range is another one.
    assert np.ptp(rows, axis=0).min() > 0.85 * (high - low)


@pytest.mark.parametrize("family_id", [i for i in COUNTS if "ood" in COUNTS[i]])
def test_ood_is_apart_from_train_and_test(family_id):
    near = np.concatenate([table(family_id, "train"), table(family_id, "test")])
    far = table(family_id, "ood")
    if family_id in TESP:
        near, far = np.hypot(*near.T)[:, None], np.hypot(*far.T)[:, None]
    column = -1  # the flag of the families with another dynamics, else the only one
    if family_id.endswith("VelShort-v0"):
        assert far[:, column].max() <= near[:, column].min()
    else:
        assert far[:, column].min() >= near[:, column].max()


def test_mql_tables_are_the_originals():
    medium, hard = "MetaHalfCheetah-VelOODMedium-v0", "MetaHalfCheetah-VelOODHard-v0"
    np.testing.assert_allclose(table(medium, "train")[:3, 0], [0.6551, 0.3967, 0.6953], atol=5e-5)
    np.testing.assert_allclose(table(hard, "train")[:3, 0], [0.3930, 0.2380, 0.4172], atol=5e-5)
    np.testing.assert_array_equal(table(medium, "ood"), table(hard, "ood"))
    np.testing.assert_allclose(table(hard, "ood")[:3, 0], [2.8418, 2.5138, 2.6169], atol=5e-5)


@pytest.mark.parametrize("family_id", TESP)
def test_tesp_goals_are_spaced_in_their_rings(family_id):
    spacing = 0.11 if "Reacher4" in family_id else 0.1
    near = np.concatenate([table(family_id, "train"), table(family_id, "test")])
    for rows, inner, outer in ((near, 0.2, 1.1), (table(family_id, "ood"), 1.1, 1.5)):
        radius = np.hypot(*rows.T)
        assert inner < radius.min()
        assert radius.max() < outer
        distances = np.hypot(*(rows[:, None] - rows[None]).transpose(2, 0, 1))
        assert distances[~np.eye(len(rows), dtype=bool)].min() > spacing
    np.testing.assert_allclose(near[:3], [[-0.249, 0.661], [-0.941, -0.463], [-0.310, 0.116]], atol=5e-4)


def test_tesp_mean_radii():
    """The means the facts give for the rule with spacing 0.1."""
    means = [np.hypot(*table("MetaWheeled-Goal-v0", split).T).mean() for split in ("train", "test", "ood")]
    np.testing.assert_allclose(means, [0.778, 0.734, 1.318], atol=5e-4)


@pytest.mark.parametrize("family_id", CONTROL_COSTS)
def test_control_cost(family_id):
    env = MetaVectorEnv(family_id, 1)
    env.reset(seed=0)
    action = np.full(env.action_space.shape, 0.5, np.float32)
    cost = env.step(action)[4]["reward_control"][0]
    assert cost == pytest.approx(-CONTROL_COSTS[family_id] * 0.25 * action.size, rel=1e-9)
    beyond = env.step(np.full(env.action_space.shape, 3.0))[4]["reward_control"][0]
    assert beyond == pytest.approx(-CONTROL_COSTS[family_id] * action.size, rel=1e-9)


@pytest.mark.parametrize("family_id", LAYOUT)
def test_alive_bonus(family_id):
    env = MetaVectorEnv(family_id, 1)
    env.reset(seed=0)
    info = env.step(np.zeros(env.action_space.shape))[4]
    assert info.get("reward_alive", np.zeros(1))[0] == pytest.approx(ALIVE.get(_kin(family_id), 0.0))


def _kin(family_id):
    """The family whose constants a family shares."""
    return {
        "MetaAnt-VelShortFull-v0": "MetaAnt-VelShort-v0",
        "MetaAnt-LowFriction-v0": "MetaAnt-DirShort-v0",
        "MetaAnt-Crippled-v0": "MetaAnt-DirShort-v0",
        "MetaHumanoid-VelShortFull-v0": "MetaHumanoid-VelShort-v0",
    }.get(family_id, family_id)


@pytest.mark.parametrize("family_id", ["MetaWalker2d-Params-v0", "MetaHopper-Params-v0"])
def test_multipliers_are_within_their_bounds(family_id):
    f = family(family_id)
    damping = np.array([name.startswith("damping") for name in f.parameter_names])
    for split in f.splits:
        rows = table(family_id, split)
        assert rows[:, ~damping].min() >= 0.296
        assert rows[:, ~damping].max() <= 3.3751
        assert rows[:, damping].min() >= 0.455
        assert rows[:, damping].max() <= 2.1971
    assert len(f.parameter_names) == {"MetaWalker2d-Params-v0": 65, "MetaHopper-Params-v0": 41}[family_id]


def test_crl_subset():
    f = family("MetaHumanoid-Dir2D-v0")
    assert f.subset("crl") == f.tasks("train")[:10]
    with pytest.raises(ValueError, match="crl"):
        f.subset("clr")


def test_a_family_prints_as_one_line():
    text = repr(family("MetaHopper-Params-v0"))
    assert text == (
        "<Family MetaHopper-Params-v0: hopper, forward, 40 train / 10 validation / 10 test tasks>"
    )
