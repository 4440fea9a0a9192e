"""Settings of the adaptation of a pre-trained agent to new tasks."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, ClassVar

from metarl_agents.common.config import Config, ConfigError, unknown


@dataclass(frozen=True)
class Variant:
    """One way to adapt; see the page of the study.

    Attributes:
        title: one line about it.
        critic: "features" for weights of the pre-trained features, "fresh" for new networks, or "none".
        prior: whether it uses the pre-trained behaviour prior.
        acts_by: "weights" for weighted samples of the prior, "policy" for a policy of its own, or "prior".
        finetunes: whether every task's copy of the features is learned after some episodes.
    """

    title: str
    critic: str
    prior: bool
    acts_by: str
    finetunes: bool = False


VARIANTS = {
    "iwpa": Variant("shared critic, weighted samples of the prior", "features", True, "weights"),
    "iwpa_finetune": Variant(
        "iwpa, whose features are learned too after some episodes",
        "features",
        True,
        "weights",
        finetunes=True,
    ),
    "iw": Variant("new critic, weighted samples of the prior", "fresh", True, "weights"),
    "distral": Variant("new critic, new policy regularised by the prior", "fresh", True, "policy"),
    "shared_q": Variant("shared critic, new policy regularised by the prior", "features", True, "policy"),
    "q_only": Variant("shared critic, weighted samples of a new prior", "features", False, "weights"),
    "scratch": Variant("new critic, new policy (SVG(0) with Retrace)", "fresh", False, "policy"),
    "prior": Variant("the prior, without adaptation", "none", True, "prior"),
}


@dataclass(frozen=True)
class AdaptationConfig(Config):
    """Settings of the adaptation; the defaults are those of Galashov et al. 2020, where given.

    Widths, discount factor and standard deviations are those of the pre-training.

    Attributes:
        variant: what is loaded of the pre-trained agent, what is learned, and what acts.
        prior_episodes: first episodes of a trial, in which the pre-trained behaviour prior acts.
        steps_per_update: steps of a task between its updates.
        updates_per_episode: further updates of a task after each of its episodes.
        batch_size: chunks of a task in an update.
        chunk_length: steps of a chunk of an episode.
        action_samples: actions K of the prior per state, whose weights estimate values.
        policy_samples: actions K of a new policy per state, of which values are means.
        acting_samples: actions of the prior from which one is chosen in acting.
        learning_rate: Adam's step size, for all networks and weights.
        target_period: updates between copies of the networks to their target networks.
        max_gradient_norm: larger gradients of a network of a task are scaled down to this norm.
        initial_weights: weights of shared features before adaptation: "zero", or "random" as in eq. 12.
        initial_temperature: alpha of the weights of samples before adaptation.
        temperature: "dual" if alpha follows the bound, or "fixed".
        kl_bound: epsilon of eq. 8 for the weights of samples, in nats.
        dual_learning_rate: Adam's step size for alpha.
        kl_cost: weight of the KL divergence of a new policy from the prior.
        trace_decay: lambda of Retrace, for "scratch"; 0 gives one-step targets.
        finetune_after: episodes after which "iwpa_finetune" learns its features.
        feature_cache: gigabytes of features of samples that may be kept; without, they are computed
            again. The result is the same.
    """

    variant: str = "iwpa"
    prior_episodes: int = 5
    steps_per_update: int = 10
    updates_per_episode: int = 50
    batch_size: int = 128
    chunk_length: int = 10
    action_samples: int = 64
    policy_samples: int = 10
    acting_samples: int = 256
    learning_rate: float = 5e-4
    target_period: int = 20
    max_gradient_norm: float = 40.0
    initial_weights: str = "zero"
    initial_temperature: float = 0.1
    temperature: str = "dual"
    kl_bound: float = 30.0
    dual_learning_rate: float = 5e-4
    kl_cost: float = 0.1
    trace_decay: float = 1.0
    finetune_after: int = 20
    feature_cache: float = 1.0

    may_be_zero: ClassVar[tuple[str, ...]] = (
        "prior_episodes",
        "updates_per_episode",
        "kl_cost",
        "trace_decay",
        "finetune_after",
        "feature_cache",
    )
    fractions: ClassVar[tuple[str, ...]] = ("trace_decay",)
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "variant": tuple(VARIANTS),
        "initial_weights": ("zero", "random"),
        "temperature": ("dual", "fixed"),
    }

    @property
    def parts(self) -> Variant:
        """The variant."""
        return VARIANTS[self.variant]


def adaptation_config(env_id: str, preset: str, overrides: Mapping[str, Any]) -> AdaptationConfig:
    """The settings for a family: defaults, the preset's values, overrides; later ones win.

    Raises:
        ConfigError: for an unknown preset or key, or a bad value.
    """
    text = resources.files("metarl_agents").joinpath("presets/iwpa.toml").read_text("utf-8")
    tables = tomllib.loads(text)
    if preset not in tables:
        raise ConfigError(unknown("preset", preset, tables))
    chosen = tables[preset]
    values = chosen.get("default", {}) | chosen.get(env_id, {})
    return AdaptationConfig().replace(values).replace(overrides)
