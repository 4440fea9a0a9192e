"""Adapter from a Gymnasium vector environment to the interface of Tianshou's collectors."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from tianshou.env import BaseVectorEnv

Array = NDArray[Any]
Infos = dict[str, Array]

#: Attributes that Gymnasium stores once and Tianshou requests as a list with one entry per
#: simulation.
SPACES = {"action_space": "single_action_space", "observation_space": "single_observation_space"}


class GymVectorEnvAdapter(BaseVectorEnv):
    """Steps all simulations of a natively batched environment in one call.

    Tianshou's own vector environments have one worker per simulation. This class has the same methods
    but no workers. Infos are stored as arrays; `reset` and `step` convert them to one dict per
    simulation, as Tianshou's collectors require, and `reset_arrays` and `step_arrays` return the
    arrays.

    Args:
        venv: environment in autoreset mode DISABLED or SAME_STEP.
        info_keys: keys of the infos to return; others are dropped, because Tianshou's collectors
            store every entry with each transition.

    Raises:
        ValueError: in autoreset mode NEXT_STEP, whose reset steps would be stored as transitions
            that did not take place.
    """

    #: The environment. Untyped, because the suite's own has methods (`set_tasks`, masks, states) that
    #: Gymnasium's interface lacks.
    venv: Any

    def __init__(self, venv: VectorEnv[Any, Any, Any], info_keys: Sequence[str] = ()) -> None:
        mode = AutoresetMode(venv.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        if mode is AutoresetMode.NEXT_STEP:
            raise ValueError(
                "the vector environment resets itself on the step after an episode's end; create "
                "it with autoreset_mode='Disabled' or 'SameStep'"
            )
        self.venv = venv
        self.info_keys = tuple(info_keys)
        self.resets_itself = mode is AutoresetMode.SAME_STEP
        self.env_num = venv.num_envs
        self.is_async = False
        self.is_closed = False
        self._takes_mask = "mask" in inspect.signature(venv.step).parameters
        self._observations_NO: Array = np.zeros(0, np.float32)
        self._infos: Infos = {}
        self._ended_N = np.zeros(self.env_num, bool)

    def get_env_attr(self, key: str, id: int | list[int] | Array | None = None) -> list[Any]:
        """The attribute of the environment, repeated for each requested simulation."""
        value = getattr(self.venv, SPACES.get(key, key))
        return [value] * len(self._wrap_id(id))

    def set_env_attr(self, key: str, value: Any, id: int | list[int] | Array | None = None) -> None:
        """Sets an attribute of the environment; all simulations share it."""
        setattr(self.venv, key, value)

    # -- arrays: the fast path ------------------------------------------------------------------

    def reset_arrays(
        self, mask_N: NDArray[np.bool_] | None = None, seed: int | None = None
    ) -> tuple[Array, Infos]:
        """Resets all simulations, or those selected by the mask.

        Args:
            mask_N: which simulations to reset. In mode SAME_STEP, a simulation that has ended has
                already been reset and keeps its new episode.
            seed: simulation i is seeded with `seed + i`; None continues the generators.

        Returns:
            The current observations (N, O) and infos of all simulations.
        """
        if mask_N is None:
            observations, infos = self.venv.reset(seed=seed)
            self._ended_N[:] = False
        elif self.resets_itself:
            return self._observations_NO, self._infos
        else:
            observations, infos = self.venv.reset(seed=seed, options={"reset_mask": mask_N})
            self._ended_N &= ~mask_N
        self._remember(observations, infos)
        return self._observations_NO, self._infos

    def step_arrays(
        self, actions_NA: Array, mask_N: NDArray[np.bool_] | None = None
    ) -> tuple[Array, Array, Array, Array, Infos]:
        """Steps all simulations, or those selected by the mask.

        Returns:
            Next observations (N, O) before any reset, rewards, terminated, truncated and infos,
            with a row for each simulation; rows outside the mask have no meaning.
        """
        if mask_N is None or mask_N.all():
            result = self.venv.step(actions_NA)
        elif self._takes_mask:
            result = self.venv.step(actions_NA, mask=mask_N)
        else:
            # Such an environment steps every simulation: those outside the mask that have ended need a
            # reset first, and their results are ignored.
            if not self.resets_itself and self._ended_N.any():
                self.venv.reset(options={"reset_mask": self._ended_N.copy()})
                self._ended_N[:] = False
            result = self.venv.step(actions_NA)
        observations, rewards, terminated, truncated, infos = result
        self._remember(observations, infos)
        selected = self._infos
        ended_N = terminated | truncated
        if not self.resets_itself:
            # Rows outside the mask too: without masks, they continue and can end.
            self._ended_N |= ended_N
        elif ended_N.any():
            # The rows of ended simulations already belong to their next episodes.
            observations = np.array(observations)
            finals = np.stack(list(infos["final_obs"][ended_N]))
            observations[ended_N] = finals
            selected = {key: np.array(column) for key, column in selected.items()}
            for key, column in selected.items():
                column[ended_N] = infos["final_info"][key][ended_N]
        return observations, rewards, terminated, truncated, selected

    def _remember(self, observations: Array, infos: Mapping[str, Any]) -> None:
        self._observations_NO, self._infos = observations, self._select(infos)

    def _select(self, infos: Mapping[str, Any]) -> Infos:
        return {key: infos[key] for key in self.info_keys if key in infos}

    # -- Tianshou's interface ---------------------------------------------------------------------

    def reset(self, env_id: int | list[int] | Array | None = None, **kwargs: Any) -> tuple[Array, Array]:
        """Resets the simulations with these indices, or all; see `BaseVectorEnv.reset`.

        `seed` may be given; simulation i gets `seed + i`, while Tianshou's own environments give all
        simulations the same seed.
        """
        rows = np.asarray(self._wrap_id(env_id))
        mask = None
        if env_id is not None and len(rows) < self.env_num:
            mask = np.zeros(self.env_num, bool)
            mask[rows] = True
        observations, infos = self.reset_arrays(mask, seed=kwargs.get("seed"))
        return np.array(observations[rows]), self._info_dicts(infos, rows)

    def step(
        self, action: Array | None, id: int | list[int] | Array | None = None
    ) -> tuple[Array, Array, Array, Array, Array]:
        """Steps the simulations with these indices, or all; see `BaseVectorEnv.step`."""
        rows = np.asarray(self._wrap_id(id))
        actions = np.zeros((self.env_num, *(self.venv.single_action_space.shape or ())), np.float32)
        actions[rows] = action
        mask = np.zeros(self.env_num, bool)
        mask[rows] = True
        observations, rewards, terminated, truncated, infos = self.step_arrays(actions, mask)
        return (
            np.array(observations[rows]),
            np.array(rewards[rows]),
            np.array(terminated[rows]),
            np.array(truncated[rows]),
            self._info_dicts(infos, rows),
        )

    def _info_dicts(self, infos: Infos, rows: Array) -> Array:
        dicts = [{"env_id": int(row), **{key: column[row] for key, column in infos.items()}} for row in rows]
        return np.array(dicts, dtype=object)

    def seed(self, seed: int | list[int] | None = None) -> list[list[int] | None]:
        """Resets, seeding simulation i with `seed + i`, or with the i-th of a list."""
        self.venv.reset(seed=seed)
        if seed is None:
            return [None] * self.env_num
        seeds = [seed + i for i in range(self.env_num)] if isinstance(seed, int) else seed
        return [[value] for value in seeds]

    def render(self, **kwargs: Any) -> list[Any]:
        """Frames of the environment."""
        frames = self.venv.render()
        return list(frames) if frames is not None else []

    def close(self) -> None:
        """Closes the environment; closing twice does nothing."""
        if not self.is_closed:
            self.venv.close()
            self.is_closed = True


def box_width(space: gymnasium.Space[Any]) -> int:
    """Size of a one-dimensional box.

    Raises:
        ValueError: for any other space; the agents here support only vectors.
    """
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"expected a space of vectors, Box with one dimension, not {space}")
    return int(space.shape[0])
