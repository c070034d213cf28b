"""Samples of the refused documents for each reason.

They are selected by a hash of their origins, so they depend neither on the order nor on the workers.
"""

import hashlib
import json
from pathlib import Path

NAME = "refused.json"
CHARACTERS = 600  # maximum of a text
_PER_REASON = 3

Sample = tuple[str, str, str]  # hash, origin, text


class Samples:
    """The samples of one task, or of several tasks."""

    def __init__(self) -> None:
        self._samples: dict[str, list[Sample]] = {}

    def add(self, reason: str, origin: str, text: str) -> None:
        """Add a document, if its hash is small enough."""
        self._consider(reason, (hashlib.sha1(origin.encode("utf-8", "replace")).hexdigest(), origin, text[:CHARACTERS]))

    def _consider(self, reason: str, sample: Sample) -> None:
        samples = self._samples.setdefault(reason, [])
        if len(samples) < _PER_REASON or sample < samples[-1]:
            self._samples[reason] = sorted([*samples, sample])[:_PER_REASON]

    def write(self, path: Path) -> None:
        """Write the samples, if there are any."""
        if self._samples:
            path.parent.mkdir(exist_ok=True)
            content = json.dumps(dict(sorted(self._samples.items())), ensure_ascii=False, indent=1) + "\n"
            path.write_text(content, encoding="utf-8", errors="replace")  # a path may not be UTF-8

    @classmethod
    def join(cls, folder: Path) -> "Samples":
        """The samples of all tasks."""
        joined = cls()
        for path in sorted(folder.glob("*.json")):
            for reason, samples in json.loads(path.read_text(encoding="utf-8")).items():
                for digest, origin, text in samples:
                    joined._consider(reason, (digest, origin, text))
        return joined


def read(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Origin and text of the samples of a shard folder, by reason."""
    path = folder / NAME
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {reason: [(origin, text) for _, origin, text in samples] for reason, samples in content.items()}
