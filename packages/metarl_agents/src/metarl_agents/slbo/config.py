"""Configuration of multi-task SLBO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from metarl_agents.common.config import ConfigError, RunConfig


@dataclass(frozen=True)
class SLBOConfig(RunConfig):
    """Configuration of multi-task SLBO; the defaults are those of the paper and its released code.

    Attributes:
        total_env_steps: real steps of a run that are learned from or that rate tasks; those of
            `measured_episodes` are counted apart.
        hidden: widths of the hidden layers of the policy.
        learning_rate: Adam's step size, for the dynamics and the value network.
        dynamics_hidden: widths of the hidden layers of the dynamics.
        value_hidden: widths of the hidden layers of the value network.
        tiny_initialisation: whether the dynamics start as in the released code, almost at zero, which costs
            about 300 steps on the first data; otherwise with PyTorch's initial weights.
        episodes_per_task: real episodes of a training task.
        capacity: most real steps that are kept.
        inner_iterations: inner iterations of a warm-up.
        model_steps: Adam steps on the dynamics in an inner iteration.
        policy_steps: trust-region steps on the policy in an inner iteration, each after new virtual rollouts.
        virtual_episodes: virtual episodes of such a step.
        model_batch: sequences of a step on the dynamics.
        sequence_length: steps of a sequence.
        weight_decay: weight of half the squared norm of the dynamics' parameters in their loss.
        max_gradient_norm: larger gradients of the dynamics are scaled down to this norm.
        gae_lambda: lambda of generalised advantage estimation.
        entropy_cost: weight of the policy's entropy.
        entropy: "gaussian", or "code" for the formula of the released code.
        curvature_every: the curvature of a policy step is estimated from every n-th virtual step.
        value_epochs: passes over the virtual steps in a fit of the values.
        value_batch: steps of a minibatch of such a fit.
        noise_decay: share of the exploration noise that is lost in a step.
        noise_scale: standard deviation of what is added to the exploration noise in a step.
        measured_episodes: real episodes without exploration noise after each warm-up in training, of which
            nothing is learned; 0 for none.
        selection: which training tasks are trained on: "none" for all; "real" or "estimated" to skip a task
            whose rating is below the median of the last ones; "window" for the best rated one of
            `candidates`. A rating is the virtual minus the real return after the warm-up, or, for
            "estimated" and "window", an estimate of it without real steps.
        candidates: tasks of which "window" chooses one.
        start: what an evaluation adapts from: "trained", or "scratch" for untrained dynamics and no data,
            which is SLBO on a single task.
        dynamics: "learned"; as controls "initial", which are never fitted, and "true", the simulator.
    """

    total_env_steps: int = 400_000
    hidden: tuple[int, ...] = (32, 32)
    learning_rate: float = 1e-3
    evaluation_protocols: tuple[str, ...] = ("slbo_warm_up", "slbo")
    dynamics_hidden: tuple[int, ...] = (500, 500)
    value_hidden: tuple[int, ...] = (64, 64)
    tiny_initialisation: bool = True
    episodes_per_task: int = 20
    capacity: int = 200_000
    inner_iterations: int = 40
    model_steps: int = 100
    policy_steps: int = 40
    virtual_episodes: int = 20
    model_batch: int = 128
    sequence_length: int = 2
    weight_decay: float = 1e-5
    max_gradient_norm: float = 2.0
    gae_lambda: float = 0.95
    entropy_cost: float = 0.005
    entropy: str = "code"
    curvature_every: int = 1
    value_epochs: int = 5
    value_batch: int = 64
    noise_decay: float = 0.15
    noise_scale: float = 0.3
    measured_episodes: int = 20
    selection: str = "none"
    candidates: int = 4
    start: str = "trained"
    dynamics: str = "learned"

    may_be_zero: ClassVar[tuple[str, ...]] = (
        *RunConfig.may_be_zero, "tiny_initialisation", "weight_decay", "entropy_cost", "noise_scale",
        "measured_episodes", "gae_lambda",
    )  # fmt: skip
    fractions: ClassVar[tuple[str, ...]] = (*RunConfig.fractions, "gae_lambda", "noise_decay")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **RunConfig.choices,
        "entropy": ("gaussian", "code"),
        "selection": ("none", "real", "estimated", "window"),
        "start": ("trained", "scratch"),
        "dynamics": ("learned", "initial", "true"),
    }
    evaluation_keys: ClassVar[tuple[str, ...]] = (
        "inner_iterations", "model_steps", "policy_steps", "virtual_episodes", "start", "dynamics",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.selection in ("estimated", "window") and self.inner_iterations < 2:
            raise ConfigError(
                f"selection {self.selection!r} rates tasks by at least 2 inner_iterations, not 1"
            )

    @property
    def simulations(self) -> int:
        """One for each real episode of a task."""
        return self.episodes_per_task
