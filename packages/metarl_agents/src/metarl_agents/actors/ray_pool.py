"""Actors: processes of Ray, on this machine or in a cluster, that share the iterations of a run.

Needs the extra `metarl-agents[ray]`. Arguments and results travel as arrays; Ray pickles them between the
processes of a run, and nothing of that is stored.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import metarl_envs
from metarl_agents.actors.building import build
from metarl_agents.common.config import ConfigError, RunConfig
from metarl_agents.common.pool import Weights, as_arrays, size_in_bytes

#: Number of losses of one actor within an iteration after which the run gives up.
MAX_LOSSES = 3


class Actor:
    """A copy of an algorithm with the simulations of its share, on a CPU.

    Args:
        agent: name of the agent.
        env_id: id of the family.
        config: the agent's configuration.
        seed: the run's seed.
        threads: see `build`.
        products: what computes matrix products in updates.
        share: the share of an iteration; see `MetaAlgorithm.shares`.
        simulations: number of simulations of the share.
    """

    def __init__(
        self,
        agent: str,
        env_id: str,
        config: RunConfig,
        *,
        seed: int,
        threads: int,
        products: str,
        share: range,
        simulations: int,
    ) -> None:
        torch.set_num_threads(threads)
        algorithm, env, _ = build(
            agent,
            env_id,
            config,
            seed=seed,
            device=torch.device("cpu"),
            threads=threads,
            simulations=simulations,
        )
        horizon = config.time_limit(metarl_envs.family(env_id).horizon)
        self.worker = algorithm.worker(config, env, horizon=horizon, share=share, products=products)

    def call(self, method: str, *arguments: Any) -> tuple[Any, float]:
        """Result of a method of the worker, and the CPU seconds of this process so far."""
        return getattr(self.worker, method)(*arguments), time.process_time()


class RayPool:
    """The actors of a run; see `metarl_agents.common.pool.Pool`.

    An actor that is lost is replaced, and gets the kept calls of the iteration again.

    Args:
        count: number of actors.

    Attributes:
        on_loss: called with a message when an actor was lost.
        bytes_sent: bytes of the arrays sent to actors so far, once per receiver.
        bytes_received: bytes of the arrays received from actors.

    Raises:
        ConfigError: when Ray is not installed.
    """

    def __init__(self, count: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "--actors needs Ray; install the extra with: pip install 'metarl-agents[ray]'"
            ) from error
        self.ray = ray
        self.count = count
        self.own_ray = False
        self.on_loss: Any = lambda message: None
        self.bytes_sent = self.bytes_received = 0
        self.remote: Any = None
        self.options: list[dict[str, Any]] = []
        self.actors: list[Any] = []
        self.kept: list[list[tuple[Any, ...]]] = [[] for _ in range(count)]
        self.losses = [0] * count
        self.seconds = [0.0] * count
        self.seconds_of_lost = 0.0
        self.weights = Weights()
        self.loading: tuple[Any, ...] | None = None

    def start(self, common: Mapping[str, Any], shares: Sequence[range], simulations: Sequence[int]) -> None:
        """Starts the actors: in the cluster of the variable RAY_ADDRESS, else on this machine.

        Args:
            common: arguments of `Actor` that all have in common.
            shares: the share of each.
            simulations: the number of simulations of each.

        Raises:
            ConfigError: when Ray has too few cores.
        """
        threads = common["threads"]
        self.own_ray = not self.ray.is_initialized()
        if self.own_ray:
            # A local Ray has as many cores as there are actors, even if the machine has fewer.
            local = None if "RAY_ADDRESS" in os.environ else self.count * threads
            self.ray.init(
                num_cpus=local, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
        cores, needed = self.ray.cluster_resources().get("CPU", 0), self.count * threads
        if cores < needed:
            each = f"{threads} thread{'s' * (threads > 1)} each"
            raise ConfigError(f"{self.count} actors with {each} need {needed} cores, but Ray has {cores:.0f}")
        self.remote = self.ray.remote(num_cpus=threads, max_restarts=0)(Actor)
        self.options = [
            {**common, "share": share, "simulations": number}
            for share, number in zip(shares, simulations, strict=True)
        ]
        self.actors = [self.remote.remote(**options) for options in self.options]

    def begin(self) -> None:
        """See `Pool.begin`."""
        self.kept = [[] if self.loading is None else [self.loading] for _ in range(self.count)]
        self.losses = [0] * self.count

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Pool.load`."""
        if not self.weights.changed(state):
            return
        arrays = as_arrays(self.weights.sent)
        self.bytes_sent += self.count * size_in_bytes(arrays)
        # Stored once; every machine fetches it once. A failure shows in the next call.
        self.loading = ("load", self.ray.put(arrays))
        for number in range(self.count):
            self._send(number, self.loading)
            self.kept[number].append(self.loading)

    def each(self, method: str, calls: Mapping[int, Sequence[Any]], *, keep: bool = False) -> list[Any]:
        """See `Pool.each`."""
        whole = {number: (method, *arguments) for number, arguments in calls.items()}
        pending = {number: self._send(number, call) for number, call in whole.items()}
        self.bytes_sent += sum(size_in_bytes(call) for call in whole.values())
        results = []
        for number, reference in pending.items():
            result, self.seconds[number] = self._result(number, reference, whole[number])
            self.bytes_received += size_in_bytes(result)
            results.append(result)
            if keep:
                self.kept[number].append(whole[number])
        return results

    def _send(self, number: int, call: tuple[Any, ...]) -> Any:
        return self.actors[number].call.remote(*call)

    def _result(self, number: int, reference: Any, call: tuple[Any, ...]) -> Any:
        while True:
            try:
                return self.ray.get(reference)
            except self.ray.exceptions.RayActorError as error:
                self.losses[number] += 1
                if self.losses[number] > MAX_LOSSES:
                    raise RuntimeError(
                        f"actor {number} was lost {self.losses[number]} times in one iteration: {error}"
                    ) from error
                self.on_loss(f"actor {number} was lost; its part of the iteration is repeated")
                reference = self._replace(number, call)

    def _replace(self, number: int, call: tuple[Any, ...]) -> Any:
        self.ray.kill(self.actors[number])
        self.seconds_of_lost += self.seconds[number]
        self.actors[number] = self.remote.remote(**self.options[number])
        for earlier in self.kept[number]:
            self._send(number, earlier)
        return self._send(number, call)

    def cpu_seconds(self) -> float:
        """CPU seconds of all actors so far."""
        return sum(self.seconds) + self.seconds_of_lost

    def close(self) -> None:
        """Stops the actors, and Ray if it was started here."""
        for actor in self.actors:
            self.ray.kill(actor)
        if self.own_ray:
            self.ray.shutdown()


@contextmanager
def actor_pool(count: int) -> Iterator[RayPool | None]:
    """The actors of a run, which are stopped at the end; None if there are to be none."""
    if not count:
        yield None
        return
    pool = RayPool(count)
    try:
        yield pool
    finally:
        pool.close()
