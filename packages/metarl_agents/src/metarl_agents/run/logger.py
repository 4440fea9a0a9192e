"""A Tianshou logger that writes one JSON line per iteration and TensorBoard events."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from tianshou.utils import WandbLogger
from tianshou.utils.logger.logger_base import BaseLogger
from torch.utils.tensorboard import SummaryWriter

from metarl_agents.run.metrics import TIMING_GLOSSARY
from metarl_envs.files import atomic_path

Record = dict[str, float]


class DamagedLinesError(RuntimeError):
    """A file of lines is not what was written; the message names it."""


class JsonLines:
    """A file of JSON objects, one per line, that can be truncated to an earlier length.

    Args:
        path: the file; created when missing.
        lines: number of existing lines to keep.
        glossary: the names that may be written.
        digest: SHA-256 of these lines; "" for no comparison.

    Attributes:
        cut: bytes of an unfinished last line that were cut off, as a crash leaves it.

    Raises:
        DamagedLinesError: when there are fewer lines, or they are not those that were written.
    """

    def __init__(self, path: Path, lines: int, glossary: Mapping[str, str], digest: str = "") -> None:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise DamagedLinesError(f"{path} is not a file")
        found = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in found if line.endswith(b"\n")]
        self.cut = 0 if len(whole) == len(found) else len(found[-1])
        kept = whole[:lines]
        if len(kept) < lines:
            raise DamagedLinesError(f"{path} has {len(kept)} lines, but the checkpoint counts {lines}")
        for number, line in enumerate(kept, 1):
            try:
                if not isinstance(json.loads(line), dict):
                    raise ValueError("it has no JSON object")
            except (ValueError, RecursionError) as error:
                raise DamagedLinesError(f"line {number} of {path} is damaged: {error}") from error
        self.hash = hashlib.sha256(b"".join(kept))
        if digest and self.digest != digest:
            raise DamagedLinesError(
                f"{path} is damaged: its first {lines} lines are not those that were written"
            )
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self.path = path
        self.lines = lines
        self.glossary = glossary

    @property
    def digest(self) -> str:
        """SHA-256 of all lines."""
        return self.hash.hexdigest()

    def write(self, record: Record) -> None:
        """Appends one record.

        Raises:
            KeyError: for a name the glossary does not define.
        """
        for name in record:
            if name not in self.glossary:
                raise KeyError(f"the metric {name!r} is missing from metarl_agents.run.metrics")
        line = (json.dumps(record) + "\n").encode()
        with self.path.open("ab") as file:
            file.write(line)
        self.hash.update(line)
        self.lines += 1


class TrainingLogger(BaseLogger):
    """Gathers what a trainer reports in an iteration and writes it when the iteration ends.

    Tianshou calls `log_training_data` after each collection, `log_update_data` after each gradient
    step and `save_data` at the end of an epoch, which here is one iteration.

    Args:
        folder: the run's directory.
        glossary: the metrics that may be written, with their meanings.
        position: iteration, environment steps and gradient steps to continue from.
        lines: lines of `metrics.jsonl` and `timing.jsonl` to keep.
        digests: their SHA-256, see `JsonLines`.
        on_iteration: called with each iteration's record after it is written.
        on_update: called after each gradient step.
        take_losses: returns the mean losses that no gradient step has reported yet.
        other_cpu_seconds: returns the CPU seconds of other processes of the run so far.
    """

    def __init__(
        self,
        folder: Path,
        *,
        glossary: Mapping[str, str],
        position: tuple[int, int, int],
        lines: tuple[int, int],
        digests: tuple[str, str] = ("", ""),
        on_iteration: Callable[[Record], None],
        on_update: Callable[[], None],
        take_losses: Callable[[], Record] = dict,
        other_cpu_seconds: Callable[[], float] = float,
    ) -> None:
        # The interval is zero because Tianshou counts iterations instead of update steps and would
        # otherwise report only the first gradient step of each iteration.
        super().__init__(training_interval=0, update_interval=0)
        self.iteration, self.env_steps, self.gradient_steps = position
        self.metrics = JsonLines(folder / "metrics.jsonl", lines[0], glossary, digests[0])
        self.timing = JsonLines(folder / "timing.jsonl", lines[1], TIMING_GLOSSARY, digests[1])
        self.folder = folder
        self.purge_step = self.env_steps + 1 if self.iteration else None
        self.tracker: WandbLogger | None = None
        self.on_iteration = on_iteration
        self.on_update = on_update
        self.take_losses = take_losses
        self.other_cpu_seconds = other_cpu_seconds
        self.record: Record = {}
        self.started = time.perf_counter()
        self.started_cpu = time.process_time()
        self.seconds_collect = 0.0
        self.seconds_update = 0.0

    @cached_property
    def events(self) -> SummaryWriter:
        """The TensorBoard events; their file is opened by the first use."""
        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.purge_step)

    def track(self, tracker: WandbLogger) -> None:
        """Sends the events to a tracker too.

        Args:
            tracker: a tracker that has been started. It sees only event files that are opened later, so
                this is called before the first iteration.
        """
        self.tracker = tracker
        tracker.load(self.events)

    # -- what Tianshou's trainer calls ----------------------------------------------------------

    def log_training_data(self, log_data: dict[str, Any], step: int) -> None:
        """Stores the statistics of a collection, which may have been without episodes."""
        if log_data["n_collected_episodes"]:
            returns, lengths = log_data["returns_stat"], log_data["lens_stat"]
            self.record |= {
                "collect/episodes": log_data["n_collected_episodes"],
                "collect/episode_length": lengths["mean"],
                **{f"collect/return_{name}": returns[name] for name in ("mean", "std", "min", "max")},
            }
        self.record |= {
            f"collect/return_{name}": stats["mean"]
            for name, stats in log_data["returns_by_conditioning"].items()
        }
        self.record |= {f"collect/{name}": value for name, value in log_data["scalars"].items()}
        self.seconds_collect += log_data["collect_time"]
        self.env_steps = step

    def log_update_data(self, log_data: dict[str, Any], step: int) -> None:
        """Stores the losses of a gradient step if it reports any."""
        self.gradient_steps += 1
        self.seconds_update += log_data["train_time"]
        for name, value in (log_data["losses"] or {}).items():
            self.record[f"update/{name}"] = value
        self.on_update()

    def save_data(
        self,
        epoch: int,
        env_step: int,
        update_step: int,
        save_checkpoint_fn: Callable[[int, int, int], str] | None = None,
    ) -> None:
        """Writes the iteration's record, then lets the run save a checkpoint."""
        self.iteration = epoch
        # An iteration may have fewer gradient steps than a report covers.
        for name, value in self.take_losses().items():
            self.record[f"update/{name}"] = value
        position: Record = {
            "iteration": epoch,
            "env_steps": env_step,
            "gradient_steps": self.gradient_steps,
        }
        record, self.record = position | self.record, {}
        self.metrics.write(record)
        self.timing.write(
            {
                "iteration": epoch,
                "seconds": time.perf_counter() - self.started,
                "seconds_cpu": time.process_time() - self.started_cpu + self.other_cpu_seconds(),
                "seconds_collect": self.seconds_collect,
                "seconds_update": self.seconds_update,
            }
        )
        for name, value in record.items():
            self.events.add_scalar(name, value, global_step=env_step)
        self.events.flush()
        self.on_iteration(record)
        if save_checkpoint_fn is not None:
            save_checkpoint_fn(epoch, env_step, update_step)

    def log_info_data(self, log_data: dict[str, Any], step: int) -> None:
        """Nothing: what Tianshou sums up here is in the records."""

    def restore_data(self) -> tuple[int, int, int]:
        """Epoch, environment steps and training steps to continue from."""
        return self.iteration, self.env_steps, self.iteration

    def finalize(self) -> None:
        """Closes the event file, and the tracker after it has everything."""
        if "events" in vars(self):
            self.events.close()
        if self.tracker is not None:
            self.tracker.finalize()

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> NoReturn:
        """Not used: records are written whole by `save_data`."""
        raise NotImplementedError("records are written by save_data")

    def prepare_dict_for_logging(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Returns the data unchanged: this logger selects by name the values that it writes."""
        return log_data

    @staticmethod
    def restore_logged_data(log_path: str) -> dict[str, Any]:
        """The records of a run as columns.

        Args:
            log_path: the run's directory.
        """
        text = (Path(log_path) / "metrics.jsonl").read_text(encoding="utf-8")
        records = [json.loads(line) for line in text.splitlines()]
        names = dict.fromkeys(name for record in records for name in record)
        return {name: [r[name] for r in records if name in r] for name in names}
