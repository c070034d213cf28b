"""The report of an export: its files, their errors and speeds, and package versions."""

import json
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from modernbert.errors import DataError
from modernbert.export.measure import CLOSE, Measurement


def report_name(target: str) -> str:
    return f"export-{target}.json"


def check_overwrite(folder: Path, target: str, files: Iterable[str]) -> None:
    """Check that each of these files is missing or from an earlier export to the same target.

    Raises:
        DataError: a file exists that the report of an earlier export does not name, or the folder is a file.
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
                f"{folder / name} is not from an export and would be overwritten; choose another folder with "
                "--output, or move the file."
            )


def write_report(
    folder: Path,
    target: str,
    source: Path,
    kind: str,
    files: Sequence[str],
    measurements: Sequence[Measurement],
    packages: Sequence[str],
    **details: Any,
) -> dict[str, Any]:
    """Write `export-TARGET.json` and return its values."""
    values = {
        "target": target,
        "model": source.name,
        "kind": kind,
        "files": list(files),
        "marked": [one.file for one in measurements if one.far],
        "marked_below": CLOSE,
        "measured": [one.record() for one in measurements],
        "versions": {name: _version(name) for name in ("modernbert", "torch", *packages)},
        **details,
    }
    (folder / report_name(target)).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return values


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
