"""The progress bar of all commands: a bar on a terminal, elsewhere a line from time to time."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0  # where stderr is a file, a pipe or a log


class Progress(tqdm):  # type: ignore[misc]
    """`tqdm` on stderr. If stderr is not a terminal: a line every 30 seconds at most, and a last one."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        if not sys.stderr.isatty():
            seconds = _SECONDS_BETWEEN_LINES
            settings |= {"mininterval": seconds, "maxinterval": seconds, "delay": seconds, "ncols": 100, "leave": True}
            settings["file"] = _LineStream(sys.stderr)
        super().__init__(*args, **settings)


class _LineStream:
    """A stream that writes each state of a bar on its own line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, state: str) -> None:
        if line := state.strip():
            self.stream.write(line + "\n")

    def flush(self) -> None:
        self.stream.flush()
