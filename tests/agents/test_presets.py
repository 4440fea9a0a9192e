"""Values of presets that their sources decide, or measurements that `results/remarks` records."""

import pytest

import metarl_envs
from metarl_agents.registry import find_agent
from metarl_envs.evaluation import PROTOCOLS

ADAPTIVE = ("maml", "promp", "rl2", "meta_sgd", "adapt_sv", "tesp")


def iterations(agent, config, env_id):
    """Iterations of a run, if no episode ends early."""
    batches = len(find_agent(agent).load().batch_names(config))
    steps = config.time_limit(metarl_envs.family(env_id).horizon)
    return config.total_env_steps / (config.simulations * batches * steps)


# Tasks, rollouts, steps of an episode, iterations, scale of actions.
RELEASED = {
    ("promp", "MetaHalfCheetah-Dir-v0"): (40, 20, 100, 1001, 10.0),
    ("promp", "MetaHalfCheetah-Vel-v0"): (40, 20, 200, 1001, 10.0),
    ("promp", "MetaAnt-Dir-v0"): (40, 20, 200, 1001, 10.0),
    ("promp", "MetaAnt-Goal-v0"): (40, 20, 200, 1001, 10.0),
    ("promp", "MetaWalker2d-Params-v0"): (40, 20, 200, 1001, 10.0),
    ("promp", "MetaHopper-Params-v0"): (40, 20, 200, 1001, 10.0),
    ("promp", "MetaHumanoid-Dir2D-v0"): (40, 20, 200, 1001, 10.0),
    ("maml", "MetaPoint-Goal-v0"): (40, 20, 20, 100, 1.0),
    ("maml", "MetaHalfCheetah-Dir-v0"): (40, 20, 100, 1001, 10.0),
    ("maml", "MetaHalfCheetah-DirShort-v0"): (40, 20, 200, 100, 1.0),
    ("maml", "MetaHalfCheetah-VelShort-v0"): (40, 10, 200, 800, 1.0),
    ("maml", "MetaHalfCheetah-VelShortFull-v0"): (40, 10, 200, 800, 1.0),
    ("maml", "MetaAnt-DirShort-v0"): (40, 40, 200, 800, 1.0),
    ("maml", "MetaAnt-VelShort-v0"): (40, 20, 200, 800, 1.0),
    ("maml", "MetaAnt-VelShortFull-v0"): (40, 20, 200, 500, 1.0),
    ("rl2", "MetaHalfCheetah-Vel-v0"): (100, 1, 200, 501, 1.0),
    ("meta_sgd", "MetaReacher2-Goal-v0"): (20, 25, 200, 300, 1.0),
    ("adapt_sv", "MetaReacher2-Goal-v0"): (20, 25, 200, 300, 1.0),
    ("tesp", "MetaReacher2-Goal-v0"): (20, 25, 200, 300, 1.0),
    ("joint_oracle", "MetaHalfCheetah-Dir-v0"): (20, 5, 200, 1000, 1.0),
}


@pytest.mark.parametrize(("agent", "env_id"), RELEASED)
def test_paper_values_of_on_policy_agents_are_those_of_their_sources(agent, env_id):
    config = find_agent(agent).config(env_id, "paper")
    assert (
        config.tasks_per_iteration,
        config.episodes_per_task,
        config.time_limit(metarl_envs.family(env_id).horizon),
        iterations(agent, config, env_id),
        config.action_scale,
    ) == RELEASED[agent, env_id]
    # The step sizes of the first three belong to standardised advantages, those of TESP's code to raw ones.
    assert config.standardise_advantages == (agent not in ("meta_sgd", "adapt_sv", "tesp"))
    if agent == "maml":
        assert config.trust_radius == (0.02 if env_id == "MetaHalfCheetah-DirShort-v0" else 0.01)


@pytest.mark.parametrize("agent", ADAPTIVE)
def test_presets_are_scored_after_as_many_steps_as_they_train(agent):
    """There is a step, or TESP's filling of its buffer, between two batches of a trial."""
    for preset, environments in find_agent(agent).preset_tables().items():
        for env_id in environments:
            config = find_agent(agent).config(env_id, preset)
            trained = len(find_agent(agent).load().batch_names(config)) - 1
            for name in config.evaluation_protocols:
                protocol = PROTOCOLS[name]
                scored = protocol.adaptation_episodes // protocol.episodes_per_update
                assert scored == trained, (preset, env_id, name)


@pytest.mark.parametrize(
    ("agent", "preset", "env_id", "share"),
    [
        ("maml", "paper", "MetaHalfCheetah-Dir-v0", 0.1),
        ("maml", "paper", "MetaPoint-Goal-v0", 0.5),
        ("maml", "fast", "MetaPoint-Goal-v0", 0.25),
    ],
)
def test_the_share_of_steps_for_the_curvature_is_the_measured_one(agent, preset, env_id, share):
    """The column "chosen" of the table in results/remarks/curvature.md."""
    assert find_agent(agent).config(env_id, preset).curvature_fraction == share


@pytest.mark.parametrize("agent", ["maml", "promp", "joint_oracle"])
def test_fast_presets_execute_a_tenth_of_the_action_of_promps_cheetah(agent):
    """With the whole action, MAML and ProMP do not learn, and the joint oracle learns slowly."""
    assert find_agent(agent).config("MetaHalfCheetah-Dir-v0", "fast").action_scale == 10.0


@pytest.mark.parametrize("agent", ["pearl", "crl"])
def test_fast_presets_take_as_many_gradient_steps_per_environment_step_as_the_oracle(agent):
    """At a few hundredths of a gradient step, as before, neither learns HalfCheetah-Vel."""
    env_id = "MetaHalfCheetah-Vel-v0"
    config, oracle = (find_agent(name).config(env_id, "fast") for name in (agent, "oracle"))
    steps = config.prior_steps + config.posterior_steps + config.extra_posterior_steps
    per_step = config.updates_per_iteration / (config.tasks_per_iteration * steps)
    assert per_step == oracle.updates_per_iteration / (oracle.tasks_per_iteration * oracle.steps_per_task)
    assert per_step >= 0.4
