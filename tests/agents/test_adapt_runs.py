"""`metarl adapt` on runs: files, interruption, what is loaded, and what is refused."""

import json

import numpy as np
import pytest
import torch
from test_run import TINY_MULTI_TASK
from typer.testing import CliRunner

from metarl_agents import adapt_run, train
from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError
from metarl_agents.iwpa.config import VARIANTS, AdaptationConfig
from metarl_agents.registry import AGENTS
from metarl_agents.run import adapt as module
from metarl_envs.evaluation import Report, unfinished

pytestmark = pytest.mark.long
ENV = "MetaPoint-SparseGoal-v0"
QUICK = (
    "updates_per_episode=2", "batch_size=4", "action_samples=3", "policy_samples=2", "acting_samples=4",
    "prior_episodes=1", "finetune_after=2", "target_period=3",
)  # fmt: skip
ARGUMENTS = {"split": "validation", "episodes": 4, "seeds": (5, 6), "num_tasks": 3, "overrides": QUICK}


def tiny(out, agent, *overrides):
    changes = [*TINY_MULTI_TASK, *overrides]
    return train(agent, ENV, out=out, overrides=changes, seed=3, steps=80 * 20 + 180, progress=False).run_dir


@pytest.fixture(scope="module")
def distral(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("runs") / "distral", "distral", "shared_q=true")


def adapted(run_dir, variant, **changes):
    """Adapts anew; a finished adaptation would only be read."""
    for path in run_dir.glob(f"adaptation_*_iwpa_{variant}_*.json"):
        path.unlink()
    return adapt_run(run_dir, variant=variant, **{**ARGUMENTS, "references": False, **changes})


def test_a_finished_adaptation_is_read(distral, monkeypatch):
    first = adapted(distral, "prior")
    monkeypatch.setattr(module.evaluation, "evaluate", None)
    again = adapt_run(distral, variant="prior", **{**ARGUMENTS, "references": False})
    assert np.array_equal(again.returns, first.returns)
    # Other settings are computed.
    with pytest.raises(TypeError):
        adapt_run(distral, variant="prior", **{**ARGUMENTS, "references": False, "episodes": 5})


def test_several_variants_through_the_command_line(distral):
    options = [part for text in QUICK for part in ("--set", text)]
    done = CliRunner().invoke(
        app,
        ["adapt", str(distral), "--variant", "iwpa,prior", "--split", "validation", "--episodes", "4",
         "--seeds", "5", "--tasks", "3", "--no-progress", *options],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "3 tasks, 1 training seed, 1 trial seed; adaptation episodes: 1, scored episodes: 3" in done.output
    for variant in ("iwpa", "prior"):
        (path,) = distral.glob(f"report_validation_iwpa_{variant}_*.json")
        report = Report.from_json(path)
        assert report.agent == variant
        assert report.returns.shape == (1, 3, 4)
        assert set(report.references) == {"zero", "random", "oracle"}
        assert path.with_suffix(".png").exists()
        record = json.loads(path.with_name(path.name.replace("report", "adaptation")).read_text())
        settings = record["identity"]["settings"]
        assert settings["batch_size"] == 4
        assert record["pretraining"] == "distral"
        assert len(record["episodes"]) == (4 if variant == "iwpa" else 0)
    assert set(settings) == set(AdaptationConfig().to_dict())
    assert "area minus that of iwpa" in done.output
    assert (distral / "adaptation_validation_iwpa.png").exists()
    learned = json.loads(next(distral.glob("adaptation_validation_iwpa_iwpa_*.json")).read_text())["episodes"]
    assert set(learned[0]) == {"value_error", "alpha", "weight_kl"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_adaptation_goes_on_bit_for_bit(distral, variant, monkeypatch):
    whole = adapted(distral, variant)
    monkeypatch.setattr(unfinished, "INTERVAL", 0.0)
    (path,) = (distral / p.name.replace("report", "unfinished") for p in
               distral.glob(f"report_validation_iwpa_{variant}_acting*.json"))  # fmt: skip
    path = path.with_suffix(".npz")
    # In the first trial, after its last episode, and in the second trial after the fine-tuning has begun.
    for stop in (2, 4, 7):

        def interrupt(done, total, stop=stop):
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            adapted(distral, variant, progress=interrupt)
        assert path.exists()
        counted = []
        again = adapted(distral, variant, progress=lambda *numbers, to=counted: to.append(numbers))
        assert counted == [(n, 8) for n in range(stop + 1, 9)]
        assert np.array_equal(again.returns, whole.returns)
        assert np.array_equal(again.success_once, whole.success_once)
        assert not path.exists()


def test_an_unfinished_adaptation_of_other_settings_is_refused_and_kept(distral, monkeypatch):
    monkeypatch.setattr(unfinished, "INTERVAL", 0.0)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapted(distral, "iw", progress=interrupt)
    with pytest.raises(ValueError, match="is of an evaluation with other settings; finish that one"):
        adapted(distral, "iw", episodes=5)
    (path,) = distral.glob("unfinished_*.npz")
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not an unfinished evaluation; remove it"):
        adapted(distral, "iw")
    path.unlink()


@pytest.mark.parametrize(
    ("variant", "unused"),
    [
        ("iw", "critic"), ("distral", "critic"), ("scratch", "critic"), ("scratch", "prior"),
        ("q_only", "prior"), ("prior", "critic"),
        *((name, "actor") for name in VARIANTS),
    ],
)  # fmt: skip
def test_only_what_a_variant_uses_is_loaded(distral, variant, unused, monkeypatch):
    """Poisoned weights of other parts have no effect."""
    plain = adapted(distral, variant)
    load = module.load_algorithm

    def poisoned(*arguments):
        algorithm, context, path = load(*arguments)
        for parameter in getattr(algorithm.policy.networks, unused).parameters():
            with torch.no_grad():
                parameter.fill_(float("nan"))
        return algorithm, context, path

    monkeypatch.setattr(module, "load_algorithm", poisoned)
    assert np.array_equal(adapted(distral, variant).returns, plain.returns)


def test_what_cannot_be_adapted_is_refused(distral, tmp_path):
    own_critic = tiny(tmp_path / "iwpl", "iwpl", "acting_samples=3", "shared_q=false")
    with pytest.raises(ConfigError, match="'iwpa' needs a critic of shared features: pre-train with"):
        adapted(own_critic, "iwpa")
    assert adapted(own_critic, "iw").returns.shape == (2, 3, 4)
    no_prior = tiny(tmp_path / "svg0", "svg0", "shared_q=true")
    with pytest.raises(ConfigError, match="'iwpa' needs a behaviour prior, and svg0 has none"):
        adapted(no_prior, "iwpa")
    assert adapted(no_prior, "q_only").returns.shape == (2, 3, 4)
    with pytest.raises(ConfigError, match=r"variant must be one of iwpa, iwpa_finetune, iw, .* not 'best'"):
        adapted(distral, "best")
    with pytest.raises(ConfigError, match="episodes must be at least 3, the number of scored ones, not 2"):
        adapted(distral, "iwpa", episodes=2)
    with pytest.raises(ConfigError, match="unknown configuration key 'alpha'"):
        adapted(distral, "iwpa", overrides=["alpha=1"])
    with pytest.raises(ConfigError, match="unknown preset 'slow'"):
        adapted(distral, "iwpa", preset="slow")


def test_other_agents_are_refused(tmp_path):
    from test_run import tiny as any_agent

    folder = any_agent(tmp_path / "pearl").run_dir
    with pytest.raises(ConfigError, match="is a run of pearl; only multi-task agents can be adapted"):
        adapted(folder, "iwpa")


def test_every_variant_and_preset_of_the_paper_is_a_valid_setting():
    from metarl_agents.iwpa.config import adaptation_config

    for preset in ("fast", "paper"):
        for family in AGENTS["distral"].preset_tables()["paper"]:
            for variant in VARIANTS:
                config = adaptation_config(family, preset, {"variant": variant})
                assert config.parts is VARIANTS[variant]


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [k for k in AGENTS["distral"].preset_tables()["paper"] if k != "default"])
def test_every_family_of_the_paper_can_be_adapted_to(env_id, tmp_path):
    """With the paper's settings, except for sizes."""
    own = {"shared_q": "true", "train_tasks": "0,1,2,3", "capacity_per_task": "4000", "initial_steps": "1"}
    tiny = dict(text.split("=") for text in TINY_MULTI_TASK)
    changes = [f"{key}={value}" for key, value in (tiny | own).items()]
    run_dir = train(
        "distral", env_id, preset="paper", out=tmp_path / "run", seed=3, steps=4000, progress=False,
        overrides=changes,
    ).run_dir  # fmt: skip
    options = [part for text in QUICK for part in ("--set", text)]
    done = CliRunner().invoke(
        app,
        ["adapt", str(run_dir), "--preset", "paper", "--variant", ",".join(VARIANTS), "--episodes", "3",
         "--seeds", "5", "--tasks", "2", "--no-progress", *options],
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    for variant in VARIANTS:
        (path,) = run_dir.glob(f"report_test_iwpa_{variant}_acting*.json")
        assert np.isfinite(Report.from_json(path).returns).all()
