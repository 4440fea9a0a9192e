"""Stepping N simulations of one MuJoCo model."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION.value)
# The counters of non-finite or huge positions, velocities and accelerations are adjacent.
BAD_STATE = slice(
    int(mujoco.mjtWarning.mjWARN_BADQPOS.value), int(mujoco.mjtWarning.mjWARN_BADQACC.value) + 1
)

#: MuJoCo prints a warning, and writes it to a file, when the warning's counter is 0. Counters therefore start
#: here; each other value is news. An unstable simulation is reset by MuJoCo, with its counters.
SILENT = 1 << 20


class Engine(ABC):
    """N simulations of one model, with live views of their states.

    After a step, derived fields (`xpos`, ...) are those of the integrator's last evaluation, exactly as
    after `mj_step` in a plain loop. With the Euler integrator, they belong to the state before the last
    substep; with Runge-Kutta, to its last stage, near the new state. With `fresh`, they belong to the new
    state. The states are the same in both modes, bit for bit.

    Attributes:
        model: the compiled model, shared by all simulations. Islands are disabled in a model with a single
            kinematic tree, which saves time and leaves the state bit-identical.
        num: the number of simulations N.
        frame_skip: substeps per step.
        qpos: generalised positions `(N, nq)`, a live view.
        qvel: generalised velocities `(N, nv)`, a live view.
        ctrl: controls `(N, nu)`, a live view.
        fresh: whether derived fields of positions and velocities are computed at the new state.
        diverged: which simulations became unstable in the last `step`, `(N,)`, or None for none.
    """

    qpos: Array
    qvel: Array
    ctrl: Array
    _state_parts: tuple[Array, ...]
    """Views that together contain all positions and velocities."""

    def __init__(self, model: mujoco.MjModel, num: int, frame_skip: int, fresh: bool) -> None:
        if model.ntree == 1:
            model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND
        self.model = model
        self.num = num
        self.frame_skip = frame_skip
        self.fresh = fresh
        self.diverged: Mask | None = None
        # Semi-implicit integrators end a step within bounds, because MuJoCo bounds velocities and
        # accelerations. The later stages of Runge-Kutta are not bounded, so the result is checked.
        self._check_state = model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4

    def _out_of_bounds(self) -> Mask | None:
        """Returns which states are huge or not finite without a warning of MuJoCo, or None for none."""
        if not self._check_state:
            return None
        # A comparison with NaN is false, and a maximum that includes NaN is NaN.
        if all(np.abs(part).max() <= mujoco.mjMAXVAL for part in self._state_parts):
            return None
        sound = [(np.abs(part) <= mujoco.mjMAXVAL).all(axis=1) for part in self._state_parts]
        broken: Mask = ~np.logical_and.reduce(sound)
        return broken

    @abstractmethod
    def derived(self, name: str) -> NDArray[Any]:
        """Returns a live, read-only view `(N, ...)` of a derived field, e.g. `xpos`."""

    @abstractmethod
    def place(self, ids: NDArray[np.int64], qpos: Array, qvel: Array) -> None:
        """Resets simulations to given positions and velocities.

        Args:
            ids: the simulations, sorted, `(n,)`.
            qpos: their positions `(n, nq)`.
            qvel: their velocities `(n, nv)`.
        """

    @abstractmethod
    def step(self, ids: NDArray[np.int64] | None = None) -> None:
        """Advances simulations by `frame_skip` substeps with the controls in `ctrl`.

        A simulation that becomes unstable is marked in `diverged`; the others are unaffected.

        Args:
            ids: the simulations, sorted, or None for all.
        """

    @abstractmethod
    def contact_forces(self) -> Array:
        """Returns the external contact wrenches `cfrc_ext`, `(N, nbody, 6)`.

        They are exactly those of `mj_rnePostConstraint` after `mj_step`. Sensors that also compute
        `cfrc_ext` do so at another point of the Runge-Kutta step, so they are not used.
        """

    @abstractmethod
    def vary(self, name: str) -> NDArray[Any]:
        """Gives every simulation separate values of a model field, and returns them.

        Args:
            name: the field of the model, e.g. `body_mass`.

        Returns:
            The live values `(N, ...)`, which can be written; changes apply from the next step on.
        """

    @abstractmethod
    def refresh_constants(self, ids: NDArray[np.int64]) -> None:
        """Recomputes the constants that depend on varied masses and inertias (`mj_setConst`)."""

    @abstractmethod
    def data(self, index: int) -> mujoco.MjData:
        """Returns a copy of one simulation, with derived fields at its current state."""

    @abstractmethod
    def get_state(self) -> Array:
        """Returns a copy of the states, `(N, S)`; `set_state` restores them bit for bit.

        A state is MuJoCo's integration state, for any number of simulations.
        """

    @abstractmethod
    def set_state(self, state: Array) -> None:
        """Restores states from `get_state`."""

    @abstractmethod
    def close(self) -> None:
        """Frees the simulations and their threads; nothing else may be called any more."""


class SingleEngine(Engine):
    """One simulation in one `MjData`, which takes a tenth less time than a batch of one."""

    def __init__(self, model: mujoco.MjModel, frame_skip: int, fresh: bool) -> None:
        super().__init__(model, 1, frame_skip, fresh)
        self._data = mujoco.MjData(model)
        self.qpos = self._data.qpos[None]
        self.qvel = self._data.qvel[None]
        self.ctrl = self._data.ctrl[None]
        self._state_parts = (self.qpos, self.qvel)
        self._warnings = self._data.warning.number
        self._warnings[:] = SILENT
        self._sound = self._warnings[BAD_STATE].tobytes()

    def derived(self, name: str) -> NDArray[Any]:
        """Returns a view of the field."""
        view: NDArray[Any] = getattr(self._data, name)[None]
        return view

    def place(self, ids: NDArray[np.int64], qpos: Array, qvel: Array) -> None:
        """Resets the simulation."""
        mujoco.mj_resetData(self.model, self._data)
        self._warnings[:] = SILENT
        self.qpos[ids] = qpos
        self.qvel[ids] = qvel
        mujoco.mj_forward(self.model, self._data)
        self._warnings[:] = SILENT

    def step(self, ids: NDArray[np.int64] | None = None) -> None:
        """Advances the simulation, unless `ids` is empty."""
        self.diverged = None
        if ids is not None and not len(ids):
            return
        try:
            mujoco.mj_step(self.model, self._data, self.frame_skip)
            if self.fresh:
                mujoco.mj_fwdPosition(self.model, self._data)
                mujoco.mj_sensorPos(self.model, self._data)
                mujoco.mj_fwdVelocity(self.model, self._data)
                mujoco.mj_sensorVel(self.model, self._data)
            self.diverged = self._out_of_bounds()
        except mujoco.FatalError:
            self.diverged = np.ones(1, dtype=np.bool_)
        # MuJoCo resets an unstable simulation automatically and only counts the event.
        if self._warnings[BAD_STATE].tobytes() != self._sound:
            self.diverged = np.ones(1, dtype=np.bool_)
            self._warnings[:] = SILENT

    def vary(self, name: str) -> NDArray[Any]:
        """Returns a view of the model's own field."""
        view: NDArray[Any] = getattr(self.model, name)[None]
        return view

    def refresh_constants(self, ids: NDArray[np.int64]) -> None:
        """Recomputes the constants with a separate `MjData`, because this overwrites the data."""
        mujoco.mj_setConst(self.model, mujoco.MjData(self.model))

    def contact_forces(self) -> Array:
        """Computes the wrenches in place."""
        mujoco.mj_rnePostConstraint(self.model, self._data)
        forces: Array = self._data.cfrc_ext[None].copy()
        return forces

    def data(self, index: int) -> mujoco.MjData:
        """Returns a copy after a forward pass."""
        data = copy.copy(self._data)
        mujoco.mj_forward(self.model, data)
        return data

    def get_state(self) -> Array:
        """Returns the integration state, `(1, S)`."""
        state = np.empty((1, mujoco.mj_stateSize(self.model, INTEGRATION)))
        mujoco.mj_getState(self.model, self._data, state[0], INTEGRATION)
        return state

    def set_state(self, state: Array) -> None:
        """Restores the integration state and the derived fields that belong to it."""
        mujoco.mj_setState(self.model, self._data, state[0], INTEGRATION)
        mujoco.mj_forward(self.model, self._data)
        # mj_forward() also writes the solver's warm start, which is part of the state.
        mujoco.mj_setState(self.model, self._data, state[0], INTEGRATION)
        self._warnings[:] = SILENT

    def close(self) -> None:
        """Does nothing; Python frees the memory."""
