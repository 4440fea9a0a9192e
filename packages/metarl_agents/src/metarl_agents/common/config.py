"""Typed configurations: defaults in a dataclass, and overrides as text."""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

#: What `RunConfig.matrix_products` may say.
MATRIX_PRODUCTS = ("auto", "onednn", "default")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what is allowed."""


@dataclass(frozen=True)
class RunConfig:
    """What every agent here is told about its run.

    Attributes:
        total_env_steps: environment steps of a run, the initial ones included.
        hidden: hidden widths of actor, critics and other value networks.
        learning_rate: Adam's step size, for all networks.
        gamma: discount per step.
        checkpoint_every: iterations between checkpoints; the last one is always saved.
        evaluate_every: iterations between evaluations while training, each of which saves a
            checkpoint first; 0 for none.
        evaluation_protocols: names of the protocols of those evaluations.
        evaluation_split: the tasks they run on; "validation" while a preset is being chosen.
        matrix_products: what computes float32 matrix products in gradient steps on a CPU:
            "default" for PyTorch's choice, "onednn" for oneDNN, or "auto" for oneDNN where it is
            another path than the default and proves to be as exact. What was taken is in the
            run's versions.json.
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

    #: Fields that may be zero; every other number must be positive.
    may_be_zero: ClassVar[tuple[str, ...]] = ("evaluate_every",)
    #: Fields that may be negative.
    may_be_negative: ClassVar[tuple[str, ...]] = ()
    #: Fields that are at most 1.
    fractions: ClassVar[tuple[str, ...]] = ("gamma",)
    #: Text fields, and what each may say.
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"matrix_products": MATRIX_PRODUCTS}
    #: Fields that an evaluation may change, because training does not depend on them.
    evaluation_keys: ClassVar[tuple[str, ...]] = ()

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
                if number == 0 and field.name not in self.may_be_zero:
                    raise ConfigError(f"{field.name} must be greater than 0")
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in self.fractions:
            if getattr(self, name) > 1:
                raise ConfigError(f"{name} must be at most 1, not {getattr(self, name)}")

    def replace(self, values: Mapping[str, Any]) -> Self:
        """The same configuration with some fields changed.

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
        """JSON-able values of all fields."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True)
class OffPolicyConfig(RunConfig):
    """What every off-policy agent here is told about collecting, storing and updating.

    Attributes:
        initial_steps: steps collected on each training task before the first update.
        tasks_per_iteration: tasks visited per iteration, drawn uniformly with replacement.
        updates_per_iteration: gradient steps per iteration.
        batch_size: transitions per gradient step; per task, where a step draws tasks.
        num_simulations: simulations stepped together while collecting.
        capacity_per_task: transitions kept per task.
        training_reward: "reward", or the info key whose values the losses train on. What an
            encoder sees and what is reported is always the environment's reward.
        tau: Polyak step of slow networks.
    """

    initial_steps: int = 2000
    tasks_per_iteration: int = 5
    updates_per_iteration: int = 2000
    batch_size: int = 256
    num_simulations: int = 32
    capacity_per_task: int = 100_000
    training_reward: str = "reward"
    tau: float = 0.005

    fractions: ClassVar[tuple[str, ...]] = (*RunConfig.fractions, "tau")

    @property
    def simulations(self) -> int:
        """See `RunConfig.simulations`."""
        return self.num_simulations

    @property
    def info_keys(self) -> tuple[str, ...]:
        """See `RunConfig.info_keys`."""
        return () if self.training_reward == "reward" else (self.training_reward,)


@dataclass(frozen=True)
class OnPolicyConfig(RunConfig):
    """What every on-policy agent here is told about collecting and advantages.

    Attributes:
        tasks_per_iteration: tasks of an iteration, drawn uniformly, without replacement where there are
            so many.
        episodes_per_task: episodes of a task collected side by side under one policy.
        gae_lambda: lambda of generalised advantage estimation; 1 gives returns minus the baseline.
        standardise_advantages: whether each task's advantages get mean 0 and deviation 1.
        action_scale: the environment is given the policy's action divided by this and clipped to its
            box, in training and evaluation alike.
        horizon: time limit of episodes in training and evaluation; 0 for the family's.
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
    """Sentence for an unknown name: the nearest known one, then the whole list."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(names)}"


def coerce(name: str, value: Any, kind: Any) -> Any:
    """The value as the field's type, from TOML, JSON or command-line text.

    Raises:
        ConfigError: when it cannot be read as that type.
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


def parse_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """`key=value` texts as a mapping.

    Raises:
        ConfigError: when a text has no `=`, or a key comes twice.
    """
    values: dict[str, str] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"an override is written key=value, not {text!r}")
        if key.strip() in values:
            raise ConfigError(f"the override {key.strip()!r} is given twice")
        values[key.strip()] = value.strip()
    return values
