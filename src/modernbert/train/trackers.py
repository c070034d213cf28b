"""Send the lines of metrics.jsonl to TensorBoard, wandb and trackio. They never influence the training."""

import json
import logging
import sys
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from modernbert.errors import ConfigError
from modernbert.files import atomic_write
from modernbert.installation import install_command
from modernbert.run_metrics import Metrics, TrackerName

logger = logging.getLogger(__name__)

Position = tuple[int, int]  # of a line of metrics.jsonl: its step, and its number among the lines of that step, from 1


@dataclass(frozen=True)
class Tracking:
    """The trackers of a run, and how it appears there."""

    trackers: tuple[TrackerName, ...]
    project: str  # project name in wandb and trackio
    name: str
    folder: Path  # of trackers.json, which has the last line sent to each tracker, and of the files of wandb
    config: Mapping[str, Any]  # the recipe
    events: Path | None = None  # of TensorBoard; unset: a folder inside `folder`

    @property
    def event_folder(self) -> Path:
        return self.folder / "tensorboard" if self.events is None else self.events


class Tracker(Protocol):
    """A receiver of lines. If `log` raises an error, the line is sent again later."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run directory. Earlier events of steps from `purge_step` on are hidden."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # otherwise a killed process would lose events

    def close(self) -> None:
        self._writer.close()


class Dashboard:
    """wandb, or trackio, which has the same interface. A resumed run has the same `run_id`."""

    def __init__(self, package: TrackerName, run_id: str, tracking: Tracking) -> None:
        self._module: Any = import_module(package)
        common = {
            "project": tracking.project,
            "name": f"{tracking.name}-{run_id}",  # trackio identifies a run by its name
            "config": dict(tracking.config),
            "resume": "allow",
        }
        self._wandb = package == "wandb"
        with redirect_stdout(sys.stderr):  # stdout is for results
            if self._wandb:
                self._run = self._module.init(**common, id=run_id, dir=str(tracking.folder))
                self._run.define_metric("*", step_metric="step")
            else:
                self._run = self._module.init(**common)

    def log(self, step: int, values: dict[str, float]) -> None:
        if self._wandb:  # with wandb's own step, it would delay each row, and lose the last one when killed
            self._run.log({"step": step, **values})
        else:
            self._run.log(values, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._module.finish()  # with `run.finish()`, trackio would finish again and write to stdout


def check_trackers(names: Sequence[TrackerName], key: str) -> None:
    """Check that the packages of the trackers can be imported. `key` is the recipe key of the trackers.

    Raises:
        ConfigError: a package is missing or does not load.
    """
    for name in names:
        try:
            import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
        except ImportError as error:
            raise ConfigError(
                f"{key} names {name}, which does not load ({error}): {install_command(name)}, or leave it out."
            ) from None


@contextmanager
def tracked_metrics(metrics: Metrics, tracking: Tracking) -> Iterator[None]:
    """In the block, the trackers receive every line of the metrics, after the lines that they lack.

    trackers.json has the last line sent to each tracker: a resumed run sends no line twice, and a tracker that is added
    later receives the whole run. If a tracker fails, its lines are sent later, and the run continues.

    Raises:
        ConfigError: a tracker cannot start and the run is new, when a user can still fix it.
    """
    if not tracking.trackers:
        yield
        return
    feed = TrackerFeed(tracking, metrics.read())
    metrics.follow = feed.send
    try:
        yield
    finally:
        metrics.follow = None
        feed.close()


class TrackerFeed:
    """The trackers of a run, and the last line sent to each."""

    def __init__(self, tracking: Tracking, lines: Sequence[Mapping[str, Any]]) -> None:
        self._path = tracking.folder / "trackers.json"
        self._state: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            self._state = json.loads(self._path.read_text(encoding="utf-8"))
        self._trackers: dict[str, Tracker] = {}
        self._waiting: dict[str, deque[tuple[Position, dict[str, float]]]] = {}
        self._warned: set[str] = set()
        self._position: Position = (0, 0)
        last_step = lines[-1]["step"] if lines else 0
        for name in tracking.trackers:
            state = self._state.setdefault(name, {"id": uuid.uuid4().hex[:8], "followed": [0, 0]})
            if name == "tensorboard" and state["followed"][0] > last_step:
                state["followed"] = [last_step + 1, 0]  # lines after the checkpoint are sent again
            try:
                self._trackers[name] = _open(name, state, tracking)
            except Exception as error:
                problem = f"{name} cannot start ({_first_line(error)})"
                if not lines:
                    raise ConfigError(f"{problem}; fix this, or remove it from the recipe's trackers.") from None
                logger.warning(
                    "%s; the run continues without it, and the next start sends it the missing lines.", problem
                )
            else:
                self._waiting[name] = deque()
        for line in lines:
            self.send(line)

    def send(self, line: Mapping[str, Any]) -> None:
        """Send the next line of the metrics to every tracker that has not received it."""
        step = line["step"]
        self._position = (step, self._position[1] + 1 if step == self._position[0] else 1)
        for name, waiting in self._waiting.items():
            if self._position > tuple(self._state[name]["followed"]):
                waiting.append((self._position, numbers(line)))
                self._send(name)

    def close(self) -> None:
        """Send waiting lines, and close the trackers."""
        for name, tracker in self._trackers.items():
            self._send(name)
            try:
                tracker.close()
            except Exception as error:
                self._warn(name, error)

    def _send(self, name: str) -> None:
        waiting = self._waiting[name]
        while waiting:
            position, values = waiting[0]
            try:
                self._trackers[name].log(position[0], values)
            except Exception as error:  # no error of a tracker ends a run of weeks
                self._warn(name, error)
                return
            waiting.popleft()
            self._state[name]["followed"] = list(position)
            with atomic_write(self._path) as partial:
                partial.write_text(json.dumps(self._state), encoding="utf-8")

    def _warn(self, name: str, error: Exception) -> None:
        if name not in self._warned:
            self._warned.add(name)
            logger.warning(
                "%s fails (%s); the run continues, metrics.jsonl has every line, and the lines that %s lacks are sent "
                "again with the next one. This warning is shown once.",
                name, _first_line(error), name,
            )  # fmt: skip


def numbers(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line by paths such as `validation/web/loss`, without names and lists of documents."""
    numbers_by_path: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            numbers_by_path |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and (prefix or name != "step"):
            numbers_by_path[prefix + name] = value
    return numbers_by_path


def _open(name: TrackerName, state: Mapping[str, Any], tracking: Tracking) -> Tracker:
    if name == "tensorboard":
        step, number = state["followed"]
        return TensorBoard(tracking.event_folder, purge_step=step + (number > 0))
    return Dashboard(name, state["id"], tracking)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
