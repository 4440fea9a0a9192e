"""Typed configurations: defaults in a dataclass, and overrides as text."""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

#: Allowed values of `RunConfig.matrix_products`.
MATRIX_PRODUCTS = ("auto", "onednn", "default")


#: Larger numbers are mistakes; a run of so many steps would not end.
LARGEST = 10**15


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what is allowed."""


@dataclass(frozen=True)
class Config:
    """Settings with checks; subclasses add fields."""

    #: Fields that may be zero; every other number must be positive.
    may_be_zero: ClassVar[tuple[str, ...]] = ()
    #: Fields that may be negative.
    may_be_negative: ClassVar[tuple[str, ...]] = ()
    #: Fields that are at most 1.
    fractions: ClassVar[tuple[str, ...]] = ()
    #: Text fields and their allowed values.
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            for number in numbers:
                if isinstance(number, str):
                    continue
                if field.name in self.may_be_negative and math.isfinite(number):
                    continue
                if not math.isfinite(number) or number < 0:
                    raise ConfigError(f"{field.name} must be a non-negative number, not {number}")
                if number > LARGEST:
                    raise ConfigError(f"{field.name} must be at most {LARGEST:.0e}, not {number:.3g}")
                if number == 0 and field.name not in self.may_be_zero:
                    raise ConfigError(f"{field.name} must be greater than 0")
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in self.fractions:
            if getattr(self, name) > 1:
                raise ConfigError(f"{name} must be at most 1, not {getattr(self, name)}")

    def replace(self, values: Mapping[str, Any]) -> Self:
        """A copy of the configuration with some fields changed.

        Raises:
            ConfigError: for an unknown field, a value of the wrong type or out of range.
        """
        types = get_type_hints(type(self))
        names = [field.name for field in dataclasses.fields(self)]
        for name in values:
            if name not in names:
                raise ConfigError(unknown("configuration key", name, names))
        return dataclasses.replace(
            self, **{name: coerce(name, value, types[name]) for name, value in values.items()}
        )

    def to_dict(self) -> dict[str, Any]:
        """Values of all fields, convertible to JSON."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True)
class RunConfig(Config):
    """Settings of all agents.

    Attributes:
        total_env_steps: environment steps of a run, including the initial ones.
        hidden: widths of the hidden layers of actor, critics and other value networks.
        learning_rate: Adam's step size, for all networks.
        gamma: discount factor per step.
        checkpoint_every: iterations between checkpoints; the last iteration is always saved.
        evaluate_every: iterations between evaluations during training; a checkpoint is saved before
            each of them; 0 for none.
        evaluation_protocols: names of the protocols of these evaluations; the first is the default of
            `metarl evaluate`.
        evaluation_split: split of these evaluations; use "validation" to choose a preset.
        matrix_products: library for float32 matrix products in gradient steps on a CPU:
            "default" for PyTorch's choice, "onednn" for oneDNN, or "auto" for oneDNN if it differs
            from the default and a test shows float32 accuracy. The run's versions.json records
            the choice.
    """

    total_env_steps: int = 1_000_000
    hidden: tuple[int, ...] = (300, 300, 300)
    learning_rate: float = 3e-4
    gamma: float = 0.99
    checkpoint_every: int = 1
    evaluate_every: int = 0
    evaluation_protocols: tuple[str, ...] = ("pearl",)
    evaluation_split: str = "test"
    matrix_products: str = "auto"

    may_be_zero: ClassVar[tuple[str, ...]] = ("evaluate_every",)
    fractions: ClassVar[tuple[str, ...]] = ("gamma",)
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"matrix_products": MATRIX_PRODUCTS}
    #: Fields that an evaluation may change, because training does not depend on them.
    evaluation_keys: ClassVar[tuple[str, ...]] = ()
    #: Fields that do not influence what is learned.
    bookkeeping: ClassVar[tuple[str, ...]] = (
        "checkpoint_every",
        "evaluate_every",
        "evaluation_protocols",
        "evaluation_split",
    )

    @property
    def simulations(self) -> int:
        """Number of simulations that are stepped together in training."""
        raise NotImplementedError

    @property
    def info_keys(self) -> tuple[str, ...]:
        """Info entries of the environment that are stored with every transition."""
        return ()

    def time_limit(self, horizon: int) -> int:
        """Time limit of episodes in training, for a family whose limit is `horizon`."""
        return horizon

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.evaluation_protocols:
            raise ConfigError("evaluation_protocols must name at least one protocol")


@dataclass(frozen=True)
class ReplayConfig(RunConfig):
    """Settings of all off-policy agents: collection and replay buffer.

    Attributes:
        initial_steps: steps collected on each training task before the first update.
        tasks_per_iteration: tasks visited per iteration, drawn uniformly with replacement.
        batch_size: transitions per gradient step, or per task if a gradient step draws tasks.
        num_simulations: simulations that are stepped together during collection.
        capacity_per_task: maximum number of stored transitions per task.
        training_reward: "reward", or the info key that replaces the reward in the losses. Encoder
            inputs and reported returns always use the environment's reward.
    """

    initial_steps: int = 2000
    tasks_per_iteration: int = 5
    batch_size: int = 256
    num_simulations: int = 32
    capacity_per_task: int = 100_000
    training_reward: str = "reward"

    @property
    def simulations(self) -> int:
        """See `RunConfig.simulations`."""
        return self.num_simulations

    @property
    def info_keys(self) -> tuple[str, ...]:
        """See `RunConfig.info_keys`."""
        return () if self.training_reward == "reward" else (self.training_reward,)


@dataclass(frozen=True)
class OffPolicyConfig(ReplayConfig):
    """Settings of off-policy agents with a fixed number of updates per iteration.

    Attributes:
        updates_per_iteration: gradient steps per iteration.
        tau: step size of the Polyak averaging of target networks.
    """

    updates_per_iteration: int = 2000
    tau: float = 0.005


@dataclass(frozen=True)
class OnPolicyConfig(RunConfig):
    """Settings of all on-policy agents: collection and advantages.

    Attributes:
        tasks_per_iteration: tasks of an iteration, drawn uniformly, without replacement if there are
            enough tasks.
        episodes_per_task: episodes of each task that are collected together with the same policy.
        gae_lambda: lambda of generalised advantage estimation; 1 gives returns minus the baseline.
        standardise_advantages: whether each task's advantages are scaled to mean 0 and standard deviation 1.
        action_scale: the environment receives the policy's action divided by this value and clipped
            to the action space, in training and in evaluation.
        horizon: time limit of episodes in training and evaluation; 0 for that of the family.
    """

    hidden: tuple[int, ...] = (64, 64)
    learning_rate: float = 1e-3
    evaluation_protocols: tuple[str, ...] = ("promp",)
    tasks_per_iteration: int = 40
    episodes_per_task: int = 20
    gae_lambda: float = 1.0
    standardise_advantages: bool = True
    action_scale: float = 1.0
    horizon: int = 0

    may_be_zero: ClassVar[tuple[str, ...]] = (
        *RunConfig.may_be_zero,
        "gae_lambda",
        "standardise_advantages",
        "horizon",
    )
    fractions: ClassVar[tuple[str, ...]] = (*RunConfig.fractions, "gae_lambda")
    evaluation_keys: ClassVar[tuple[str, ...]] = ("horizon",)

    @property
    def simulations(self) -> int:
        """See `RunConfig.simulations`."""
        return self.tasks_per_iteration * self.episodes_per_task

    def time_limit(self, horizon: int) -> int:
        """See `RunConfig.time_limit`."""
        return self.horizon or horizon


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Message for an unknown name, with the most similar known name and the whole list."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(names)}"


def coerce(name: str, value: Any, kind: Any) -> Any:
    """Converts a value from TOML, JSON or the command line to the type of the field.

    Raises:
        ConfigError: when it cannot be converted to that type.
    """
    try:
        if get_origin(kind) is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(coerce(name, part, get_args(kind)[0]) for part in parts if part != "")
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int:
            number = float(value)
            if isinstance(value, bool) or number != int(number):
                raise ValueError
            return int(number)
        if kind is float and isinstance(value, bool):
            raise ValueError
        return kind(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(
            kind, "whole numbers separated by commas"
        )
        raise ConfigError(f"{name} must be {wanted}, not {value!r}") from None


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads configuration values from a TOML file.

    Raises:
        ConfigError: when it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a configuration: {error}") from error


def parse_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Parses `key=value` texts.

    Raises:
        ConfigError: when a text has no `=`, or a key is given twice.
    """
    values: dict[str, str] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"an override must have the form key=value, not {text!r}")
        if key.strip() in values:
            raise ConfigError(f"the override {key.strip()!r} is given twice")
        values[key.strip()] = value.strip()
    return values
