"""Reward and termination as pure functions of transitions, for model-based agents."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl_envs.bodies.rllab import ShortBody
from metarl_envs.core import build_core
from metarl_envs.families.family import Family
from metarl_envs.families.specs import family as find_family

Array = NDArray[np.float64]


class RewardModel:
    """Reward and termination of a transition, computed from its observations only.

    The observations of families of the rllab lineage (`...Short...`) contain all quantities that their reward
    and termination require. Both functions are pure and vectorised. Their results equal those of the
    environment for the same transition, up to the float32 precision of observations.
    """

    def __init__(self, family: str | Family, **arguments: Any) -> None:
        """Prepares the functions.

        Args:
            family: a family or its id.
            **arguments: the arguments of the family.

        Raises:
            ValueError: the observations of the family do not contain all quantities that its reward requires.
        """
        self.family = find_family(family) if isinstance(family, str) else family
        core = build_core(self.family, **arguments)
        if not isinstance(core.body, ShortBody):
            core.close()
            raise ValueError(
                f"the observations of {self.family.id} do not contain all that its reward requires; the"
                " families on bodies of the rllab lineage have a reward model: those named ...Short...,"
                " MetaAnt-LowFriction-v0 and MetaAnt-Crippled-v0"
            )
        self._body, self._objective = core.body, core.objective
        self._assembly = core.assembly

    def reward(
        self,
        observation: NDArray[Any],
        action: NDArray[Any],
        next_observation: NDArray[Any],
        tasks: NDArray[Any],
    ) -> Array:
        """Returns the rewards of transitions, `(B,)`.

        Args:
            observation: observations before the step, `(B, O)`; no reward depends on them.
            action: actions as passed to the environment, `(B, A)`.
            next_observation: observations after the step, `(B, O)`.
            tasks: the task vectors, `(B, P)`.
        """
        del observation
        vectors = np.asarray(tasks, dtype=np.float64)
        of_body = self._assembly.body_part.read(vectors)
        of_objective = self._assembly.objective_part.read(vectors)
        clipped = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        applied = self._body.actuate(clipped, of_body)
        motion = self._body.motion_in(np.asarray(next_observation, dtype=np.float64), applied)
        terms = self._objective.terms(self._objective.judge(motion, of_objective), motion)
        return np.asarray(np.sum(terms, axis=0))

    def terminated(self, next_observation: NDArray[Any]) -> NDArray[np.bool_]:
        """Returns for which observations `(B, O)` the state ends an episode, `(B,)`."""
        return self._body.fallen_in(np.asarray(next_observation, dtype=np.float64))
