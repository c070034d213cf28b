"""metrics.jsonl: one JSON object per line, appended during the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from modernbert.files import atomic_write

TrackerName = Literal["tensorboard", "trackio", "wandb"]  # services that can receive the lines


class Metrics:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.follow: Callable[[dict[str, Any]], None] | None = None  # called with every line after it is written

    def write(self, values: dict[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self.follow is not None:
            self.follow(values)

    def read(self) -> list[dict[str, Any]]:
        """All lines up to the first invalid one: after a crash, the last line may be incomplete."""
        if not self.path.exists():
            return []
        lines = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(values, dict) or not isinstance(values.get("step"), int):
                break
            lines.append(values)
        return lines

    def forget_after(self, step: int) -> None:
        """Remove the lines after the checkpoint from which a run resumes."""
        kept = [line for line in self.read() if line["step"] <= step]
        with atomic_write(self.path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
