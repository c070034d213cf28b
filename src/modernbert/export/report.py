"""The report that lies beside exported files: which they are, how close they come, and with what they were made."""

import json
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from modernbert.errors import DataError
from modernbert.export.measure import CLOSE, Measurement


def report_name(target: str) -> str:
    return f"export-{target}.json"


def refuse_foreign(folder: Path, target: str, files: Iterable[str]) -> None:
    """See that each of these files is either not there or from an earlier export to the same target.

    Raises:
        DataError: one is there that no report of ours names, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; choose another folder with --output.")
    try:
        known = json.loads((folder / report_name(target)).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        known = []
    for name in files:
        if (folder / name).exists() and name not in known:
            raise DataError(
                f"{folder / name} is not from an export of this program and would be lost; choose another folder with "
                "--output, or move it away."
            )


def write_report(
    folder: Path,
    target: str,
    source: Path,
    kind: str,
    files: Sequence[str],
    found: Sequence[Measurement],
    packages: Sequence[str],
    **also: Any,
) -> dict[str, Any]:
    """Write `export-TARGET.json` and give back what it says."""
    values = {
        "target": target,
        "model": source.name,
        "kind": kind,
        "files": list(files),
        "marked": [one.file for one in found if one.far],
        "marked_below": CLOSE,
        "measured": [one.record() for one in found],
        "versions": {name: _version(name) for name in ("modernbert", "torch", *packages)},
        **also,
    }
    (folder / report_name(target)).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return values


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
