"""TensorBoard, wandb and trackio as readers of metrics.jsonl: each is sent its lines, and decides nothing."""

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

Place = tuple[int, int]  # of a line of metrics.jsonl: its step, and which of the lines of that step it is, from 1


@dataclass(frozen=True)
class Tracking:
    """Which trackers a run has, and how it appears there."""

    trackers: tuple[TrackerName, ...]
    project: str  # under which wandb and trackio list the run
    name: str
    folder: Path  # of trackers.json, which says how far each tracker has come, and of the files of wandb
    config: Mapping[str, Any]  # the recipe, for the tracker to show
    events: Path | None = None  # of TensorBoard; a folder inside `folder` unless set

    @property
    def event_folder(self) -> Path:
        return self.folder / "tensorboard" if self.events is None else self.events


class Tracker(Protocol):
    """Where lines go. `log` may raise; the line is then sent again later."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run directory. Those of steps from `purge_step` on are hidden by the ones that follow."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # what a killed process has not written would be lost

    def close(self) -> None:
        self._writer.close()


class Dashboard:
    """wandb, or trackio, which took over its calls. `run_id` makes a run that goes on the same one there."""

    def __init__(self, package: TrackerName, run_id: str, tracking: Tracking) -> None:
        self._module: Any = import_module(package)
        common = {
            "project": tracking.project,
            "name": f"{tracking.name}-{run_id}",  # trackio knows a run by its name
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
        if self._wandb:  # with its own step it would hold a row back until the next one, and lose it when killed
            self._run.log({"step": step, **values})
        else:
            self._run.log(values, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._module.finish()  # the run's own would leave trackio to finish it again, on stdout


def check_trackers(names: Sequence[TrackerName], key: str) -> None:
    """Import what the trackers need. `key` is that of the recipe which names them.

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
def followed(metrics: Metrics, tracking: Tracking) -> Iterator[None]:
    """Within the block the trackers get every line of the metrics, and first those that they lack.

    How far each has come is kept in trackers.json: a run that is resumed sends no line twice, and a tracker that is
    named later gets the whole run. One that fails keeps its lines waiting and never ends a run.

    Raises:
        ConfigError: a tracker cannot begin and the run is new, so that somebody is there to fix it.
    """
    if not tracking.trackers:
        yield
        return
    followers = Followers(tracking, metrics.read())
    metrics.follow = followers.take
    try:
        yield
    finally:
        metrics.follow = None
        followers.close()


class Followers:
    """The trackers of a run, and how far each has come."""

    def __init__(self, tracking: Tracking, lines: Sequence[Mapping[str, Any]]) -> None:
        self._path = tracking.folder / "trackers.json"
        self._state: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            self._state = json.loads(self._path.read_text(encoding="utf-8"))
        self._trackers: dict[str, Tracker] = {}
        self._waiting: dict[str, deque[tuple[Place, dict[str, float]]]] = {}
        self._warned: set[str] = set()
        self._place: Place = (0, 0)
        last_step = lines[-1]["step"] if lines else 0
        for name in tracking.trackers:
            state = self._state.setdefault(name, {"id": uuid.uuid4().hex[:8], "followed": [0, 0]})
            if name == "tensorboard" and state["followed"][0] > last_step:
                state["followed"] = [last_step + 1, 0]  # lines after the checkpoint are sent again
            try:
                self._trackers[name] = _open(name, state, tracking)
            except Exception as error:
                problem = f"{name} cannot begin ({_first_line(error)})"
                if not lines:
                    raise ConfigError(f"{problem}; fix that, or leave it out of the recipe's trackers.") from None
                logger.warning("%s; the run goes on without it, and the next start sends it what it lacks.", problem)
            else:
                self._waiting[name] = deque()
        for line in lines:
            self.take(line)

    def take(self, line: Mapping[str, Any]) -> None:
        """Send the next line of the metrics to every tracker that has not had it."""
        step = line["step"]
        self._place = (step, self._place[1] + 1 if step == self._place[0] else 1)
        for name, waiting in self._waiting.items():
            if self._place > tuple(self._state[name]["followed"]):
                waiting.append((self._place, numbers(line)))
                self._send(name)

    def close(self) -> None:
        """Send what waits, and let go of the trackers."""
        for name, tracker in self._trackers.items():
            self._send(name)
            try:
                tracker.close()
            except Exception as error:
                self._warn(name, error)

    def _send(self, name: str) -> None:
        waiting = self._waiting[name]
        while waiting:
            place, values = waiting[0]
            try:
                self._trackers[name].log(place[0], values)
            except Exception as error:  # whatever it is, it is no reason to end a run of weeks
                self._warn(name, error)
                return
            waiting.popleft()
            self._state[name]["followed"] = list(place)
            with atomic_write(self._path) as partial:
                partial.write_text(json.dumps(self._state), encoding="utf-8")

    def _warn(self, name: str, error: Exception) -> None:
        if name not in self._warned:
            self._warned.add(name)
            logger.warning(
                "%s fails (%s); the run goes on, metrics.jsonl has every line, and what %s lacks is sent again with "
                "the next one. This is said once.",
                name, _first_line(error), name,
            )  # fmt: skip


def numbers(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line under paths such as `validation/web/loss`. Names, and lists of documents, are left out."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and (prefix or name != "step"):
            found[prefix + name] = value
    return found


def _open(name: TrackerName, state: Mapping[str, Any], tracking: Tracking) -> Tracker:
    if name == "tensorboard":
        step, number = state["followed"]
        return TensorBoard(tracking.event_folder, purge_step=step + (number > 0))
    return Dashboard(name, state["id"], tracking)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
