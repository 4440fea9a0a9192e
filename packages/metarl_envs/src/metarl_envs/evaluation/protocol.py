"""Evaluation protocols as data: how many episodes of a task are for adaptation and how many are scored."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """The structure of a trial, and which of its episodes are scored.

    A trial consists of `adaptation_episodes`, followed by `scored_episodes`, all on one task.
    The agent observes all of them; the score is the mean return of the scored ones. With
    `scored_between`, there are also scored episodes before the first and after every other batch of
    adaptation episodes, from which the agent does not learn; they are points of the curve, not of the score.

    Attributes:
        split: Name of the family's split whose tasks are evaluated.
        adaptation_episodes: Episodes before the scored ones, 0 or more.
        scored_episodes: Episodes at the end of the trial whose returns are averaged, 1 or more.
        deterministic: Whether the agent acts without exploration noise in scored episodes. Its
            exploration in the adaptation episodes is part of its method.
        seeds: One complete trial of every task is run per seed. A seed determines the initial states
            and `Trial.seed`, the seed of all random numbers of the agent.
        episodes_per_update: Episodes collected with one policy between two updates of methods that
            adapt in batches; a divisor of `adaptation_episodes`.
        scored_between: Scored episodes before each batch of `episodes_per_update` adaptation episodes; a
            multiple of `episodes_per_update`, or 0 for none.
        adaptation_horizon: Time limit of the adaptation episodes; `None` for the family's.
        num_tasks: Number of tasks to evaluate, from the first on; all of the split if `None`.
        name: Name of the protocol in tables and plots.
        source: Source of the numbers, and decisions that were necessary.

    Raises:
        ValueError: If a value is not allowed; the message gives the allowed values.
    """

    split: str = "test"
    adaptation_episodes: int = 2
    scored_episodes: int = 1
    deterministic: bool = True
    seeds: tuple[int, ...] = (0,)
    episodes_per_update: int = 1
    scored_between: int = 0
    adaptation_horizon: int | None = None
    num_tasks: int | None = None
    name: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for field in ("split", "name", "source"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(f"{field} must be a string, got {getattr(self, field)!r}")
        if not self.split:
            raise ValueError("split must name one of the family's splits, got an empty string")
        if not isinstance(self.deterministic, bool):
            raise ValueError(f"deterministic must be True or False, got {self.deterministic!r}")
        self._set_integer("adaptation_episodes", 0)
        self._set_integer("scored_episodes", 1)
        self._set_integer("episodes_per_update", 1)
        self._set_integer("scored_between", 0)
        for field in ("num_tasks", "adaptation_horizon"):
            if getattr(self, field) is not None:
                self._set_integer(field, 1)
        if self.adaptation_episodes % self.episodes_per_update:
            raise ValueError(
                "adaptation_episodes must be a multiple of episodes_per_update, got "
                f"{self.adaptation_episodes} and {self.episodes_per_update}"
            )
        if self.scored_between % self.episodes_per_update:
            raise ValueError(
                "scored_between must be a multiple of episodes_per_update, got "
                f"{self.scored_between} and {self.episodes_per_update}"
            )
        given: Any = self.seeds  # its type is checked here
        if isinstance(given, str | bytes) or not hasattr(given, "__iter__"):
            raise ValueError(f"seeds must be a sequence of integers, got {given!r}")
        seeds = tuple(_integer("seeds", seed, 0) for seed in given)
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds must be one or more different integers, got {given!r}")
        object.__setattr__(self, "seeds", seeds)

    def _set_integer(self, field: str, least: int) -> None:
        # Also converts NumPy integers, which JSON does not support, to Python's.
        object.__setattr__(self, field, _integer(field, getattr(self, field), least))

    @property
    def num_episodes(self) -> int:
        """Episodes of one trial."""
        updates = self.adaptation_episodes // self.episodes_per_update
        return self.adaptation_episodes + updates * self.scored_between + self.scored_episodes

    def adapting(self, episode: int) -> bool:
        """Whether an episode of a trial, counted from 0, is an adaptation episode."""
        return is_adapting(episode, self.adaptation_episodes, self.episodes_per_update, self.scored_between)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {**dataclasses.asdict(self), "seeds": list(self.seeds)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """Restores a protocol from `to_dict`; missing fields have their defaults.

        Raises:
            ValueError: If a key is unknown or a value is not allowed.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"unknown protocol fields {', '.join(unknown)}; the fields are {', '.join(sorted(known))}"
            )
        return cls(**values)


def is_adapting(
    episode: int, adaptation_episodes: int, episodes_per_update: int, scored_between: int
) -> bool:
    """Whether an episode of a trial, counted from 0, is an adaptation episode; see `Protocol`."""
    batch, place = divmod(episode, scored_between + episodes_per_update)
    return batch * episodes_per_update < adaptation_episodes and place >= scored_between


def _integer(field: str, value: Any, least: int) -> int:
    try:
        # Python accepts a bool as an index; as a count it is a mistake.
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{field} must hold integers of at least {least}, got {value!r}")
    return number


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="pearl",
            adaptation_episodes=2,
            scored_episodes=1,
            deterministic=True,
            source=(
                "Rakelly et al. 2019 and its released code: 600 steps of horizon 200, the first "
                "two episodes with z from the prior, the return of the third is reported. Repeats "
                "(num_evals 1, 2 or 4 by environment) are seeds here."
            ),
        ),
        Protocol(
            name="pearl_sparse",
            adaptation_episodes=19,
            scored_episodes=1,
            deterministic=True,
            source=(
                "Rakelly et al. 2019, released code, sparse point: 400 steps of horizon 20, the first "
                "five episodes with z from the prior (an agent's own matter: PEARL's "
                "prior_episodes), the return of the twentieth is reported."
            ),
        ),
        Protocol(
            name="mql",
            adaptation_episodes=1,
            scored_episodes=2,
            deterministic=True,
            source=(
                "Fakoor et al. 2020 and its released code: one deterministic episode of 200 steps "
                "for adaptation, then num_evals episodes are averaged, 2 in general and 4 on the "
                "direction families."
            ),
        ),
        Protocol(
            name="mql_1200",
            adaptation_episodes=6,
            scored_episodes=2,
            deterministic=True,
            source="Fakoor et al. 2020, appendix B, Fig. 7b: 6 episodes of 200 steps for adaptation.",
        ),
        Protocol(
            name="mql_800",
            adaptation_episodes=1,
            scored_episodes=2,
            deterministic=True,
            adaptation_horizon=800,
            source=(
                "Fakoor et al. 2020, appendix B, Fig. 8: one long episode of 800 steps for "
                "adaptation. Scored episodes have the family's horizon, so that returns compare."
            ),
        ),
        Protocol(
            name="maml",
            adaptation_episodes=60,
            scored_episodes=20,
            deterministic=False,
            episodes_per_update=20,
            source=(
                "Finn et al. 2017 and its released code: 20 rollouts per gradient step, up to 3 "
                "steps, returns of fresh rollouts afterwards. The curve holds 0, 1, 2 and 3 steps."
            ),
        ),
        Protocol(
            name="promp",
            adaptation_episodes=20,
            scored_episodes=20,
            deterministic=False,
            episodes_per_update=20,
            source=(
                "Rothfuss et al. 2019 and its released code: one inner step of 20 rollouts. For two, "
                "as on Ant-Goal, there is promp_2."
            ),
        ),
        Protocol(
            name="promp_2",
            adaptation_episodes=40,
            scored_episodes=20,
            deterministic=False,
            episodes_per_update=20,
            source="Rothfuss et al. 2019 and its released code on Ant-Goal: two inner steps of 20 rollouts.",
        ),
        Protocol(
            name="rl2",
            adaptation_episodes=1,
            scored_episodes=1,
            deterministic=False,
            source=(
                "Duan et al. 2016 in the settings that the PEARL paper compares with: trials of 2 "
                "episodes of 200 steps, sampled actions, hidden state kept across them, the last "
                "episode reported."
            ),
        ),
        Protocol(
            name="tesp",
            adaptation_episodes=100,
            scored_episodes=25,
            deterministic=False,
            episodes_per_update=25,
            source=(
                "Lan et al. 2019 and its released code: a warm-up batch for the episode buffer and "
                "3 fast updates, each of 25 rollouts, then a fresh batch is reported."
            ),
        ),
        Protocol(
            name="meta_sgd",
            adaptation_episodes=75,
            scored_episodes=25,
            deterministic=False,
            episodes_per_update=25,
            source=(
                "Lan et al. 2019 for methods without a warm-up batch (MAML, Meta-SGD, AdaptSV): 3 fast "
                "updates of 25 rollouts each, then a fresh batch is reported."
            ),
        ),
        Protocol(
            name="iwpa",
            adaptation_episodes=37,
            scored_episodes=3,
            deterministic=False,
            seeds=(0, 1, 2),
            source=(
                "Importance weighted policy adaptation: returns along tens of episodes, averaged "
                "over the last 3, 3 seeds, softmax acting. The paper shows curves and gives no "
                "number of episodes; 40 is this project's choice."
            ),
        ),
        Protocol(
            name="slbo",
            adaptation_episodes=80,
            scored_episodes=20,
            deterministic=False,
            episodes_per_update=20,
            scored_between=20,
            source=(
                "Landolfi et al. 2019, appendix and code: 4 stages of 4000 samples, 20 episodes of "
                "200 steps each, scored on new rollouts without exploration noise after the warm-up and "
                "after every stage."
            ),
        ),
        Protocol(
            name="slbo_40",
            adaptation_episodes=160,
            scored_episodes=40,
            deterministic=False,
            episodes_per_update=40,
            scored_between=40,
            source="Landolfi et al. 2019 on Ant and Humanoid: 4 stages of 8000 samples.",
        ),
        Protocol(
            name="slbo_warm_up",
            adaptation_episodes=0,
            scored_episodes=20,
            deterministic=False,
            source="Landolfi et al. 2019: new rollouts after the warm-up, before any real step of the task.",
        ),
    )
}
