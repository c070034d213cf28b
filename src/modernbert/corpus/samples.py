"""A few of the documents that were refused, for each reason, to look at.

Which ones is a matter of a hash of where they stood, so that it depends neither on their order nor on who read them.
"""

import hashlib
import json
from pathlib import Path

NAME = "refused.json"
CHARACTERS = 600  # of a text
_EACH = 3  # of a reason

Sample = tuple[str, str, str]  # hash, origin, text


class Samples:
    """The samples of one task, or of several put together."""

    def __init__(self) -> None:
        self._found: dict[str, list[Sample]] = {}

    def add(self, reason: str, origin: str, text: str) -> None:
        """Consider one document."""
        self._consider(reason, (hashlib.sha1(origin.encode("utf-8", "replace")).hexdigest(), origin, text[:CHARACTERS]))

    def _consider(self, reason: str, sample: Sample) -> None:
        found = self._found.setdefault(reason, [])
        if len(found) < _EACH or sample < found[-1]:
            self._found[reason] = sorted([*found, sample])[:_EACH]

    def write(self, path: Path) -> None:
        """Write what was found, or nothing if that is nothing."""
        if self._found:
            path.parent.mkdir(exist_ok=True)
            content = json.dumps(dict(sorted(self._found.items())), ensure_ascii=False, indent=1) + "\n"
            path.write_text(content, encoding="utf-8", errors="replace")  # a path may be no UTF-8

    @classmethod
    def join(cls, folder: Path) -> "Samples":
        """Those of all tasks."""
        joined = cls()
        for path in sorted(folder.glob("*.json")):
            for reason, found in json.loads(path.read_text(encoding="utf-8")).items():
                for digest, origin, text in found:
                    joined._consider(reason, (digest, origin, text))
        return joined


def read(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Origin and text of the samples of a shard folder, by reason."""
    path = folder / NAME
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {reason: [(origin, text) for _, origin, text in samples] for reason, samples in found.items()}
