"""Scripted oracles: their closed form, their registration and the goals they reach."""

import numpy as np
import pytest

import metarl_envs
from metarl_envs.evaluation import (
    Protocol,
    ScriptedOracle,
    ZeroAgent,
    evaluate,
    reference_reports,
    register_scripted_oracle,
    scripted_oracle,
)


def straight_line_distances(start, goal, steps):
    """Distances after each step to the goal, at 0.1 per step of the longer coordinate."""
    delta = goal - start
    length, longest = np.linalg.norm(delta, axis=1), np.abs(delta).max(axis=1)
    left = 1.0 - 0.1 * np.arange(1, steps + 1) / longest[:, None]
    return length[:, None] * np.maximum(left, 0.0)


@pytest.mark.parametrize("family_id", ["MetaPoint-Goal-v0", "MetaPoint-SparseGoal-v0"])
def test_the_point_oracle_earns_the_closed_form(family_id):
    family = metarl_envs.family(family_id)
    oracle, seen = scripted_oracle(family_id), []

    def watched(observations):
        seen.append(observations.astype(np.float64))
        return oracle.controller(observations)

    agent = ScriptedOracle(watched)
    report = evaluate(agent, family, Protocol(adaptation_episodes=1, seeds=(5,)))
    for episode in range(2):
        first = seen[episode * family.horizon]
        distances = straight_line_distances(first[:, :2], first[:, 2:], family.horizon)
        if family_id == "MetaPoint-Goal-v0":
            rewards = -distances
        else:
            # On the very edge of the goal, rounding decides; keep clear of it.
            distances = np.where(np.abs(distances - 0.2) < 1e-6, np.nan, distances)
            rewards = np.where(distances <= 0.2, 1.0 - distances, 0.0 * distances)
        clear = np.isfinite(rewards).all(axis=1)
        assert clear.sum() >= 15
        returns = report.returns[0, :, episode]
        np.testing.assert_allclose(returns[clear], rewards.sum(axis=1)[clear], atol=1e-5)
    assert report.success_at_end.all()


def test_oracles_are_registered_once(monkeypatch):
    oracles = "metarl_envs.evaluation.scripted._ORACLES"
    monkeypatch.setattr(oracles, dict(metarl_envs.evaluation.scripted._ORACLES))
    register_scripted_oracle("Fake-v1", ZeroAgent)
    assert isinstance(scripted_oracle("Fake-v1"), ZeroAgent)
    assert scripted_oracle("Unheard-Of-v0") is None
    with pytest.raises(ValueError, match="already has a scripted oracle"):
        register_scripted_oracle("MetaPoint-Goal-v0", ZeroAgent)


ORACLES = [i for i in metarl_envs.registered_ids() if scripted_oracle(i) is not None]


@pytest.mark.long
@pytest.mark.parametrize("most", [20, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family_id", ORACLES)
def test_scripted_oracles_reach_and_hold_their_goals(family_id, most):
    """The first tasks of each split, and all of them under `slow`; zero and random actions on a few."""
    family = metarl_envs.family(family_id)
    for split in (name for name in family.splits if name != "train"):
        count = min(most or np.inf, len(family.tasks(split)))
        protocol = Protocol(split=split, adaptation_episodes=0, scored_episodes=1, num_tasks=count)
        reached = evaluate(scripted_oracle(family_id), family, protocol).success_at_end[0, :, 0]
        goals = np.array([task.parameters for task in family.tasks(split)[:count]])
        # The two-link arm cannot fold further than its joint's 160 degrees.
        nearest = 0.0
        if family_id == "MetaReacher2-Goal-v0":
            nearest = np.sqrt(0.75**2 + 0.95**2 + 2 * 0.75 * 0.95 * np.cos(np.deg2rad(160)))
        reachable = np.hypot(*goals.T[:2]) > nearest - 0.01
        # Eighteen metres are too far for ten seconds, and an elbow may be in the way.
        least = {"MetaQuadruped-GoToRing-v0": 0.9, "MetaJaco-Reach-v0": 0.99}.get(family_id, 1.0)
        assert reached[reachable].mean() >= least
    few = Protocol(adaptation_episodes=0, scored_episodes=1, num_tasks=None if most is None else 5)
    reports = reference_reports(family_id, few)
    assert reports["oracle"].scores.mean() > 0.5 * reports["zero"].scores.mean()
    assert reports["oracle"].scores.mean() > reports["random"].scores.mean()
