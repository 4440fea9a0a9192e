"""Stepping many simulations of one MuJoCo model on native threads, and the choice of an engine."""

from __future__ import annotations

import os
import weakref
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

from metarl_envs.simulation.engine import BAD_STATE, INTEGRATION, SILENT, Array, Engine, Mask, SingleEngine

_VELOCITY_STAGE = int(mujoco.mjtStage.mjSTAGE_VEL.value)
_NO_STAGE = int(mujoco.mjtStage.mjSTAGE_NONE.value)
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
        self._initial_state = np.empty(mujoco.mj_stateSize(model, INTEGRATION))
        mujoco.mj_getState(model, mujoco.MjData(model), self._initial_state, INTEGRATION)
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
        self._warnings = self._batch.warning[:, :, 1]
        self._warnings[:] = SILENT
        self._instabilities = self._warnings[:, BAD_STATE]

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
        self._warnings[ids] = SILENT

    def step(self, ids: NDArray[np.int64] | None = None) -> None:
        """Advances some simulations, or all."""
        failed: NDArray[Any] = _NOBODY
        try:
            self._batch.step(ids, self.frame_skip, self._stage)
        except SimulationError as error:
            failed = error.ids
        self.diverged = self._out_of_bounds()
        counted = self._instabilities != SILENT
        if len(failed) or np.count_nonzero(counted):
            unstable: Mask = counted.any(axis=1)
            unstable[failed] = True
            self._warnings[:] = SILENT
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
        self._warnings[:] = SILENT

    def close(self) -> None:
        """Frees the simulations and their threads."""
        _with_threads.discard(self)
        # The threads live as long as any view of the batch.
        self._bound, self._varied, self._state_parts = {}, {}, ()
        del self.qpos, self.qvel, self.ctrl, self._state, self._warnings, self._instabilities, self._batch


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
