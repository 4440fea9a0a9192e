"""One call of `train` or `resume`: restoring, training and saving a run."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from metarl_agents.actors.ray_pool import RayPool
from metarl_agents.run.assembly import Assembly
from metarl_agents.run.checkpoint import (
    fitting,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from metarl_agents.run.directory import RunError
from metarl_agents.run.evaluate import load_agent
from metarl_agents.run.logger import TrainingLogger
from metarl_agents.run.metrics import glossary
from metarl_agents.run.monitor import Monitor
from metarl_agents.run.progress import RunProgress
from metarl_agents.run.signals import Signals


class Session:
    """Continues a run from its newest checkpoint, or starts it, until it is finished or stopped.

    Args:
        folder: the run's directory.
        description: the contents of its `config.json`.
        parts: the parts of the run; they are restored from the checkpoint.
        signals: what signals ask for.
        progress: whether to show progress.
        pool: the actors of the run; None without actors.
    """

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        parts: Assembly,
        *,
        signals: Signals,
        progress: bool,
        pool: RayPool | None = None,
    ) -> None:
        self.parts = parts
        self.config = parts.config
        self.signals = signals
        self.checkpoints = folder / "checkpoints"
        self.resumed, position, lines, digests = self._restore()
        self.initial_steps = position[1]
        self.shown = RunProgress(
            folder / "log.txt",
            total=self.config.total_env_steps,
            done=self.initial_steps,
            updates_per_iteration=parts.updates_per_iteration,
            shown=progress,
        )
        self.logger = TrainingLogger(
            folder,
            glossary=glossary(description["agent"]),
            position=position,
            lines=lines,
            digests=digests,
            on_iteration=self.shown.iteration,
            on_update=self.shown.update_step,
            take_losses=parts.algorithm.means.take,
            other_cpu_seconds=float if pool is None else pool.cpu_seconds,
        )
        for file in (self.logger.metrics, self.logger.timing):
            if file.cut:
                self.shown.message(f"cut the unfinished last line ({file.cut} bytes) off {file.path}")
        if pool is not None:
            pool.on_loss = self.shown.message
        self.monitor = Monitor(
            folder,
            description["env_id"],
            self.config,
            lambda: load_agent(folder, device=description["device"]),
            iteration=position[0],
            threads=description["threads"],
        )
        signals.on_first = lambda: self.shown.message(
            "stopping after this iteration; a second signal stops at the last checkpoint"
        )

    def _restore(self) -> tuple[bool, tuple[int, int, int], tuple[int, int], tuple[str, str]]:
        """Restores the newest checkpoint, or collects the initial steps if there is none.

        Returns:
            Whether there was a checkpoint; iteration, environment steps and gradient steps; lines of
            `metrics.jsonl` and `timing.jsonl`, and their digests.

        Raises:
            CheckpointError: when the checkpoint is damaged, or is not one of this configuration.
        """
        path = newest_checkpoint(self.checkpoints)
        if path is None:
            initial = self.parts.collector.collect_initial()
            return False, (0, initial.n_collected_steps, 0), (0, 0), ("", "")
        checkpoint = read_checkpoint(path)
        with fitting(path):
            self.parts.load_state(checkpoint)
            values = checkpoint.values
            position = (values["iteration"], values["env_steps"], values["gradient_steps"])
            lines = (values["metrics_lines"], values["timing_lines"])
            digests = (values["metrics_digest"], values["timing_digest"])
        return True, position, lines, digests

    @property
    def finished(self) -> bool:
        """Whether the run has all its environment steps."""
        return self.logger.env_steps >= self.config.total_env_steps

    @property
    def nothing_left(self) -> bool:
        """Whether the run was finished and evaluated by an earlier call."""
        return self.resumed and self.finished and not self.monitor.due(self.logger.iteration, True)

    def run(self, products: str, note: str | None = None) -> None:
        """Trains, evaluates and saves until the run is finished or a signal stops it.

        Args:
            products: what computes matrix products; see `metarl_agents.common.matrix_products`.
            note: a message to show first.
        """
        logger = self.logger
        if self.nothing_left:
            logger.finalize()
            self.shown.stop()
            return
        try:
            if note is not None:
                self.shown.message(note)
            if not self.resumed:
                self._save()
            elif self.monitor.due(logger.iteration, self.finished):
                self.monitor.evaluate(logger.iteration, logger.env_steps)
            trainer = self.parts.trainer(logger, self._after_iteration, products)
            trainer.reset(reset_collectors=False)
            while not self.finished and not self.signals.stop:
                trainer.execute_epoch()
            if logger.iteration == 0 and self.finished:
                self.shown.message(
                    f"the agent is untrained: of {self.config.total_env_steps:,} steps, the initial ones on "
                    f"the training tasks already take {self.initial_steps:,}, so no iteration was run; use "
                    f"more than {self.initial_steps:,} steps, or fewer initial ones"
                )
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"the run cannot be written: {error}; the last checkpoint is intact: when there is space "
                f"again, continue with metarl resume {self.checkpoints.parent}"
            ) from error
        finally:
            # On a full disk, the last lines are lost too.
            with suppress(OSError):
                logger.finalize()
                self.shown.close()

    def _after_iteration(self, iteration: int, env_steps: int, gradient_steps: int) -> str:
        """Saves a checkpoint and evaluates it, if either is due; Tianshou's trainer calls this."""
        evaluating = self.monitor.due(iteration, self.finished)
        due = (
            iteration % self.config.checkpoint_every == 0 or self.finished or self.signals.stop or evaluating
        )
        written = self._save() if due else ""
        if evaluating:
            self.monitor.evaluate(iteration, env_steps)
        return written

    def _save(self) -> str:
        logger = self.logger
        checkpoint = self.parts.state()
        checkpoint.values |= {
            "iteration": logger.iteration,
            "env_steps": logger.env_steps,
            "gradient_steps": logger.gradient_steps,
            "metrics_lines": logger.metrics.lines,
            "metrics_digest": logger.metrics.digest,
            "timing_lines": logger.timing.lines,
            "timing_digest": logger.timing.digest,
        }
        return str(write_checkpoint(self.checkpoints, logger.iteration, checkpoint))
