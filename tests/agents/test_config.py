"""Configurations, presets, registry."""

import subprocess
import sys
import tomllib
import warnings

import pytest

import metarl_agents
import metarl_envs
from metarl_agents.algorithms.pearl import PEARLConfig
from metarl_agents.common.config import ConfigError, parse_overrides
from metarl_agents.registry import AGENTS, PresetWarning, find_agent
from metarl_agents.run.config_text import describe_config


def test_overrides_are_typed_by_the_dataclass():
    config = PEARLConfig().replace(
        parse_overrides(
            [
                "hidden=64,32",
                "gamma=0.5",
                "meta_batch=1e1",
                "context_next_observation=true",
                "training_reward=dense",
            ]
        )
    )
    assert config.hidden == (64, 32)
    assert config.gamma == 0.5
    assert config.meta_batch == 10
    assert type(config.meta_batch) is int
    assert config.context_next_observation is True
    assert config.training_reward == "dense"
    assert PEARLConfig().replace(config.to_dict()) == config


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("metabatch=3", "unknown configuration key 'metabatch'; did you mean 'meta_batch'?"),
        ("zzz=3", "unknown configuration key 'zzz'. Known: batch_size, "),
        ("meta_batch=2.5", "meta_batch must be a whole number, not '2.5'"),
        ("meta_batch=many", "meta_batch must be a whole number, not 'many'"),
        ("meta_batch=0", "meta_batch must be greater than 0"),
        ("gamma=1.5", "gamma must be at most 1, not 1.5"),
        ("learning_rate=nan", "learning_rate must be a non-negative number, not nan"),
        ("learning_rate=-1", "learning_rate must be a non-negative number, not -1.0"),
        ("hidden=64,a", "hidden must be"),
        ("context_next_observation=maybe", "context_next_observation must be true or false"),
        ("gamma", "an override must have the form key=value, not 'gamma'"),
    ],
)
def test_errors_are_one_clear_sentence(text, sentence):
    with pytest.raises(ConfigError) as error:
        PEARLConfig().replace(parse_overrides([text]))
    assert str(error.value).startswith(sentence)


def test_an_override_given_twice_is_refused():
    with pytest.raises(ConfigError, match="given twice"):
        parse_overrides(["gamma=0.5", "gamma=0.6"])


def test_zero_is_allowed_where_it_switches_something_off():
    PEARLConfig(posterior_steps=0, extra_posterior_steps=0, kl_weight=0.0, mean_penalty=0.0)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_preset_table_loads(agent):
    tables = find_agent(agent).preset_tables()
    assert {"paper", "fast"} <= set(tables)
    for preset, environments in tables.items():
        for env_id in environments:
            config = find_agent(agent).config(env_id, preset)
            assert tomllib.loads(describe_config(config)) == config.to_dict()


def test_paper_values_are_the_papers():
    """Rakelly et al. 2019, released configurations, per environment."""
    fields = ("meta_batch", "prior_steps", "extra_posterior_steps", "updates_per_iteration",
              "context_batch", "kl_weight", "initial_steps", "reward_scale", "gamma",
              "context_next_observation", "prior_episodes")  # fmt: skip
    table = {
        "MetaHalfCheetah-Vel-v0": (16, 400, 600, 2000, 100, 0.1, 2000, 5, 0.99, False, 0),
        "MetaHalfCheetah-Dir-v0": (4, 1000, 1000, 2000, 256, 0.1, 2000, 5, 0.99, False, 0),
        "MetaAnt-Dir-v0": (4, 400, 600, 4000, 256, 0.1, 2000, 5, 0.99, False, 0),
        "MetaAnt-Goal-v0": (10, 400, 600, 4000, 256, 1.0, 2000, 5, 0.99, False, 0),
        "MetaHumanoid-Dir2D-v0": (16, 400, 600, 4000, 256, 0.1, 2000, 5, 0.99, False, 0),
        "MetaWalker2d-Params-v0": (10, 400, 600, 4000, 100, 0.1, 2000, 5, 0.99, True, 0),
        "MetaHopper-Params-v0": (10, 400, 600, 4000, 100, 0.1, 2000, 5, 0.99, True, 0),
        "MetaPoint-Goal-v0": (16, 200, 200, 1000, 64, 0.1, 200, 100, 0.99, False, 1),
        "MetaPoint-SparseGoal-v0": (16, 100, 0, 1000, 1024, 1.0, 200, 100, 0.9, False, 5),
    }
    for env_id, values in table.items():
        assert env_id in find_agent("pearl").preset_tables()["paper"]
        config = find_agent("pearl").config(env_id, "paper")
        assert tuple(getattr(config, name) for name in fields) == values
        assert config.initial_weights == "released"
        # What the oracle shares with PEARL is the same, and so is the number of steps.
        oracle = find_agent("oracle").config(env_id, "paper")
        assert env_id in find_agent("oracle").preset_tables()["paper"]
        stages = config.prior_steps + config.posterior_steps + config.extra_posterior_steps
        assert oracle.steps_per_task == stages
        alike = ("meta_batch", "updates_per_iteration", "initial_steps", "reward_scale", "gamma",
                 "total_env_steps", "capacity_per_task", "tasks_per_iteration",
                 "initial_weights")  # fmt: skip
        for name in alike:
            assert getattr(oracle, name) == getattr(config, name), (env_id, name)
        # Initial steps on every training task, then 500 iterations.
        tasks = len(metarl_envs.family(env_id).tasks("train"))
        iterations = 500 * config.tasks_per_iteration * stages
        assert config.total_env_steps == tasks * config.initial_steps + iterations
        assert (config.hidden, config.encoder_hidden) == ((300,) * 3, (200,) * 3)
        assert (config.latent_size, config.learning_rate, config.tau) == (5, 3e-4, 0.005)
        assert (config.batch_size, config.mean_penalty, config.log_std_penalty) == (256, 1e-3, 1e-3)
    assert config.posterior_steps == 900
    assert config.tasks_per_iteration == 10
    assert config.training_reward == "dense_reward"


def test_crls_paper_values_are_pearls():
    """The paper's agents share their hyper-parameters; released values of PEARL per environment."""
    for env_id in ("MetaHalfCheetah-Vel-v0", "MetaHalfCheetah-Dir-v0", "MetaPoint-Goal-v0"):
        values = find_agent("crl").config(env_id, "paper").to_dict()
        pearl = find_agent("pearl").config(env_id, "paper").to_dict()
        # But for what the paper prints: c_n = (s, a, s', r), and z inferred before every episode but
        # the first (Algorithm 2).
        own = {"context_next_observation": True, "prior_episodes": 1}
        assert {name: values[name] for name in pearl} == pearl | own
    fields = ("meta_batch", "prior_steps", "extra_posterior_steps", "updates_per_iteration",
              "context_batch", "kl_weight", "context_next_observation")  # fmt: skip
    table = {
        "MetaAnt-Dir-v0": (4, 400, 600, 4000, 256, 0.1, True),
        "MetaHumanoid-Dir2D-v0": (16, 400, 600, 4000, 256, 0.1, True),
        "MetaWalker2d-Params-v0": (10, 400, 600, 4000, 100, 0.1, True),
        "MetaHopper-Params-v0": (10, 400, 600, 4000, 100, 0.1, True),
    }
    for env_id, values in table.items():
        assert env_id in find_agent("crl").preset_tables()["paper"]
        config = find_agent("crl").config(env_id, "paper")
        assert tuple(getattr(config, name) for name in fields) == values
        # Initial steps on every training task, then 500 iterations of 5 x 1000 steps.
        tasks = len(metarl_envs.family(env_id).tasks("train"))
        assert config.total_env_steps == tasks * 2000 + 500 * 5 * 1000


@pytest.mark.parametrize("agent", ["td3", "td3_context", "mql"])
def test_mqls_paper_values_are_those_of_its_released_commands(agent):
    """Fakoor et al. 2020, run_script.py: the paper's own table is shifted against its header."""
    fields = ("policy_every", "exploration_noise", "target_noise", "updates_per_iteration",
              "learning_rate", "tasks_per_iteration")  # fmt: skip
    context = ("history_length", "context_size", "unbounded_evaluation")
    adaptation = ("weight_clip", "replay_updates", "new_updates", "propensity_c", "replay_batch",
                  "propensity_observations", "snapshot_steps")  # fmt: skip
    table = {
        "MetaHalfCheetah-Vel-v0": (
            (2, 0.3, 0.3, 200, 1e-3, 1), (20, 15, False), (1.0, 100, 10, 0.1, 5 * 256, False, 2000), 500,
        ),
        "MetaHalfCheetah-Dir-v0": (
            (2, 0.3, 0.3, 500, 3e-4, 1), (20, 20, False), (1.5, 50, 10, 0.5, 10 * 256, False, 2000), 5000,
        ),
        "MetaAnt-Dir-v0": (
            (4, 0.2, 0.4, 1000, 3e-4, 5), (25, 30, True), (1.2, 400, 5, 0.05, 5 * 256, False, 2000), 5000,
        ),
        "MetaAnt-Goal-v0": (
            (4, 0.3, 0.3, 200, 4e-4, 5), (40, 40, True), (2.0, 150, 10, 0.1, 256, True, 1000), 1500,
        ),
        "MetaHumanoid-Dir2D-v0": (
            (3, 0.2, 0.3, 500, 3e-4, 1), (15, 20, True), (2.0, 15, 5, 0.1, 5 * 256, True, 2000), 1000,
        ),
        "MetaWalker2d-Params-v0": (
            (3, 0.2, 0.2, 200, 8e-4, 5), (10, 30, False), (1.1, 400, 10, 0.06, 5 * 256, True, 4000), 2000,
        ),
    }  # fmt: skip
    for env_id, (values, of_context, of_adaptation, initial) in table.items():
        config = find_agent(agent).config(env_id, "paper")
        assert tuple(getattr(config, name) for name in fields) == values
        # At least 10,000 random steps in all, in episodes of 50; a million transitions, half of that
        # for the humanoid.
        tasks = len(metarl_envs.family(env_id).tasks("train"))
        assert config.initial_steps == initial
        assert config.initial_steps * tasks >= 10_000
        wanted = 500_000 if "Humanoid" in env_id else 1_000_000
        assert config.capacity_per_task * tasks == pytest.approx(wanted, rel=0.001)
        shared = (config.gamma, config.tau, config.batch_size, config.hidden, config.initial_cut)
        assert shared == (0.99, 0.005, 256, (300, 300), 50)
        assert config.total_env_steps == 5_000_000
        if agent != "td3":
            assert tuple(getattr(config, name) for name in context) == of_context
        if agent == "mql":
            assert tuple(getattr(config, name) for name in adaptation) == of_adaptation
            assert (config.proximal, config.weight_floor) == ("ess", 0.1)
    for env_id in ("MetaHalfCheetah-VelOODMedium-v0", "MetaHalfCheetah-VelOODHard-v0"):
        assert find_agent(agent).config(env_id, "paper") == find_agent(agent).config(
            "MetaHalfCheetah-Vel-v0", "paper"
        )


def test_precedence_and_unknown_names():
    with pytest.warns(PresetWarning):
        base = find_agent("pearl").config("Unheard-Of-v0", "fast")
    assert base == find_agent("pearl").config("default", "fast")
    point = find_agent("pearl").config("MetaPoint-Goal-v0", "fast", {"tau": "0.5"})
    assert point.tau == 0.5
    assert point.capacity_per_task != base.capacity_per_task
    with pytest.raises(ConfigError, match=r"unknown preset 'fats'; did you mean 'fast'\?"):
        find_agent("oracle").config("x", "fats")
    with pytest.raises(ConfigError, match=r"unknown agent 'perl'; did you mean 'pearl'\?"):
        find_agent("perl")


@pytest.mark.parametrize("agent", AGENTS)
def test_a_preset_without_values_for_a_family_says_so(agent):
    for preset, environments in find_agent(agent).preset_tables().items():
        other = next(i for i in metarl_envs.registered_ids() if i not in environments)
        with pytest.warns(PresetWarning) as caught:
            find_agent(agent).config(other, preset)
        (warning,) = caught
        assert str(warning.message) == (
            f"the preset {preset!r} of {agent} has no values for {other}; its default values are used, which "
            "were not chosen for this family"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for env_id in environments:
                find_agent(agent).config(env_id, preset)


@pytest.mark.process
def test_the_command_line_says_it_once_in_one_sentence():
    code = "from metarl_agents.cli import main; main()"
    command = [sys.executable, "-c", code, "config", "pearl", "MetaAnt-Dir2D-v0"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == (
        "warning: the preset 'fast' of pearl has no values for MetaAnt-Dir2D-v0; its default values are "
        "used, which were not chosen for this family\n"
    )
    assert "meta_batch = 8" in done.stdout


def test_fast_presets_keep_the_initial_weights_of_the_results():
    for agent in ("pearl", "crl", "oracle"):
        for env_id in find_agent(agent).preset_tables()["fast"]:
            assert find_agent(agent).config(env_id, "fast").initial_weights == "fan_in"
    with pytest.raises(ConfigError, match="initial_weights must be one of released, fan_in, not 'zero'"):
        PEARLConfig(initial_weights="zero")


@pytest.mark.process
def test_agents_import_one_by_one():
    assert metarl_agents.PEARL is find_agent("pearl").load()
    assert set(dir(metarl_agents)) >= {"PEARL", "Oracle", "train", "resume", "AGENTS"}
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = metarl_agents.Nothing
    code = (
        "import sys, metarl_agents; metarl_agents.AGENTS['pearl'].title;"
        "assert not {'torch', 'tianshou', 'mujoco'} & set(sys.modules);"
        "from metarl_agents import PEARL;"
        "assert 'metarl_agents.algorithms.oracle' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
