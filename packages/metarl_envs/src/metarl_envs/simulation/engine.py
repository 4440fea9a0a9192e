"""Stepping N simulations of one MuJoCo model."""

from __future__ import annotations

import copy
import os
import weakref
from abc import ABC, abstractmethod
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION.value)
_NO_STAGE = int(mujoco.mjtStage.mjSTAGE_NONE.value)
# The counters of non-finite or huge positions, velocities and accelerations are adjacent.
_VELOCITY_STAGE = int(mujoco.mjtStage.mjSTAGE_VEL.value)
_BAD_STATE = slice(
    int(mujoco.mjtWarning.mjWARN_BADQPOS.value), int(mujoco.mjtWarning.mjWARN_BADQACC.value) + 1
)

_NOBODY = np.zeros(0, dtype=np.int64)

_with_threads: weakref.WeakSet[BatchEngine] = weakref.WeakSet()
_inherited: list[Batch] = []


def _rebuild_after_fork() -> None:
    # A forked child has the batch's memory but not its threads: using or freeing the batch would wait
    # forever. Each such engine gets a new batch with the same state; the old one is kept, unused.
    for engine in list(_with_threads):
        _inherited.append(engine.rebuild())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_rebuild_after_fork)


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
        """Frees the simulations."""


def make_engine(
    model: mujoco.MjModel,
    num: int,
    frame_skip: int,
    num_threads: int,
    *,
    fresh: bool = False,
    contact_forces: bool = False,
) -> Engine:
    """Builds the fastest engine for a number of simulations; all give the same numbers.

    Args:
        model: the compiled model.
        num: the number of simulations N.
        frame_skip: substeps per step.
        num_threads: number of threads for several simulations.
        fresh: whether to compute derived fields at the new state.
        contact_forces: whether to support `Engine.contact_forces`.
    """
    if fresh and contact_forces:
        raise ValueError("contact forces belong to the last substep, which fresh fields overwrite")
    if num == 1:
        return SingleEngine(model, frame_skip, fresh)
    return BatchEngine(model, num, frame_skip, num_threads, fresh=fresh, contact_forces=contact_forces)


class SingleEngine(Engine):
    """One simulation in one `MjData`, which takes a tenth less time than a batch of one."""

    def __init__(self, model: mujoco.MjModel, frame_skip: int, fresh: bool) -> None:
        super().__init__(model, 1, frame_skip, fresh)
        self._data = mujoco.MjData(model)
        self.qpos = self._data.qpos[None]
        self.qvel = self._data.qvel[None]
        self.ctrl = self._data.ctrl[None]
        self._state_parts = (self.qpos, self.qvel)
        self._instabilities = self._data.warning.number[_BAD_STATE]

    def derived(self, name: str) -> NDArray[Any]:
        """Returns a view of the field."""
        view: NDArray[Any] = getattr(self._data, name)[None]
        return view

    def place(self, ids: NDArray[np.int64], qpos: Array, qvel: Array) -> None:
        """Resets the simulation."""
        mujoco.mj_resetData(self.model, self._data)
        self.qpos[ids] = qpos
        self.qvel[ids] = qvel
        mujoco.mj_forward(self.model, self._data)

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
        if np.count_nonzero(self._instabilities):
            self.diverged = np.ones(1, dtype=np.bool_)
            self._instabilities[:] = 0

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
        state = np.empty((1, mujoco.mj_stateSize(self.model, _INTEGRATION)))
        mujoco.mj_getState(self.model, self._data, state[0], _INTEGRATION)
        return state

    def set_state(self, state: Array) -> None:
        """Restores the integration state and the derived fields that belong to it."""
        mujoco.mj_setState(self.model, self._data, state[0], _INTEGRATION)
        mujoco.mj_forward(self.model, self._data)
        # mj_forward() also writes the solver's warm start, which is part of the state.
        mujoco.mj_setState(self.model, self._data, state[0], _INTEGRATION)
        self._instabilities[:] = 0

    def close(self) -> None:
        """Does nothing; Python frees the memory."""


class BatchEngine(Engine):
    """Many simulations with `mujoco.batch` on native threads; bit-identical for any number of threads."""

    def __init__(
        self,
        model: mujoco.MjModel,
        num: int,
        frame_skip: int,
        num_threads: int,
        *,
        fresh: bool = False,
        contact_forces: bool = False,
    ) -> None:
        super().__init__(model, num, frame_skip, fresh)
        self._num_threads = num_threads
        # Only a persistent batch keeps the constraint forces of the last substep, and continues from fresh
        # fields without recomputing them; Runge-Kutta recomputes them in any case.
        self._persistent = contact_forces or (fresh and not self._check_state)
        self._stage = _VELOCITY_STAGE if fresh else _NO_STAGE
        self._scratch = mujoco.MjData(model) if contact_forces else None
        self._bound: dict[str, NDArray[Any]] = {}
        self._varied: dict[str, NDArray[Any]] = {}
        self._refreshed: Mask = np.zeros(num, dtype=np.bool_)
        self._initial_state = np.empty(mujoco.mj_stateSize(model, _INTEGRATION))
        mujoco.mj_getState(model, mujoco.MjData(model), self._initial_state, _INTEGRATION)
        self._build()
        if num_threads > 1:
            _with_threads.add(self)

    def _build(self) -> None:
        self._batch = Batch(self.model, self.num, self._num_threads, self._persistent)
        self._state: Array = self._batch.state
        self.qpos = self._batch.bind("qpos")
        self.qvel = self._batch.bind("qvel")
        self.ctrl = self._batch.bind("ctrl")
        # A state begins with the time, the positions and the velocities.
        self._state_parts = (self._state[:, 1 : 1 + self.model.nq + self.model.nv],)
        self._instabilities = self._batch.warning[:, _BAD_STATE, 1]

    def rebuild(self) -> Batch:
        """Replaces the batch by a new one with the same state, and returns the old one."""
        old, state = self._batch, self._state.copy()
        derived = {name: array.copy() for name, array in self._bound.items()}
        varied = {name: array.copy() for name, array in self._varied.items()}
        self._build()
        self._varied = {name: self._batch.expand(name) for name in varied}
        for name, values in varied.items():
            self._varied[name][:] = values
        if np.count_nonzero(self._refreshed):
            self._batch.set_const(np.flatnonzero(self._refreshed))
        self._state[:] = state
        self._bound = {}
        for name, values in derived.items():
            array = self.derived(name)
            array.flags.writeable = True  # the batch refreshes it at the next step
            array[:] = values
            array.flags.writeable = False
        return old

    def derived(self, name: str) -> NDArray[Any]:
        """Binds the field at its first use; it contains values from the next call on."""
        if name not in self._bound:
            self._bound[name] = self._batch.bind(name)
        return self._bound[name]

    def vary(self, name: str) -> NDArray[Any]:
        """Expands the field at its first use."""
        if name not in self._varied:
            self._varied[name] = self._batch.expand(name)
        return self._varied[name]

    def refresh_constants(self, ids: NDArray[np.int64]) -> None:
        """Recomputes the constants of some simulations."""
        self._batch.set_const(ids)
        self._refreshed[ids] = True

    def place(self, ids: NDArray[np.int64], qpos: Array, qvel: Array) -> None:
        """Resets some simulations."""
        self._state[ids] = self._initial_state  # faster than the batch's own reset
        self.qpos[ids] = qpos
        self.qvel[ids] = qvel
        self._batch.forward(ids)

    def step(self, ids: NDArray[np.int64] | None = None) -> None:
        """Advances some simulations, or all."""
        failed: NDArray[Any] = _NOBODY
        try:
            self._batch.step(ids, self.frame_skip, self._stage)
        except SimulationError as error:
            failed = error.ids
        self.diverged = self._out_of_bounds()
        if len(failed) or np.count_nonzero(self._instabilities):
            unstable: Mask = self._instabilities.any(axis=1)
            unstable[failed] = True
            self._instabilities[:] = 0
            self.diverged = unstable if self.diverged is None else unstable | self.diverged

    def contact_forces(self) -> Array:
        """Computes the wrenches from the constraint forces of each simulation."""
        if self._scratch is None:
            raise RuntimeError("contact forces were not asked for when the engine was built")
        out = np.empty((self.num, self.model.nbody, 6))
        for i in range(self.num):
            self._batch.get_data(i, self._scratch)
            mujoco.mj_rnePostConstraint(self.model, self._scratch)
            out[i] = self._scratch.cfrc_ext
        return out

    def data(self, index: int) -> mujoco.MjData:
        """Returns a copy after a forward pass."""
        data = self._batch.get_data(index)
        model = self._batch.get_model(index) if self._varied else self.model
        mujoco.mj_forward(model, data)
        return data

    def get_state(self) -> Array:
        """Returns the integration states."""
        return self._state.copy()

    def set_state(self, state: Array) -> None:
        """Restores the integration states and the derived fields that belong to them."""
        self._state[:] = state
        self._batch.forward(None)
        # forward() also writes the solver's warm start, which is part of the state.
        self._state[:] = state
        self._instabilities[:] = 0

    def close(self) -> None:
        """Frees the simulations and their threads."""
        _with_threads.discard(self)
        del self._batch
