"""How this package was installed, so that a message can name the command that installs a missing extra."""

import json
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def install_command(extra: str) -> str:
    """The command that installs an extra of this package from the same source as the package.

    A checkout, folder, wheel or git address is named as it was given to pip (PEP 610, direct_url.json). A
    package from an index is named by its name. `extra` is one of [project.optional-dependencies].
    """
    return f"pip install {_requirement(extra)}"


@cache
def _requirement(extra: str) -> str:
    origin = _origin()
    if origin is None:
        return f"'modernbert[{extra}]'"
    url = str(origin["url"])
    if "dir_info" in origin or "archive_info" in origin:
        path = unquote(urlsplit(url).path) if url.startswith("file:") else url
        editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
        return f"{editable}'{path}[{extra}]'"
    revision = origin.get("vcs_info", {}).get("commit_id")
    address = f"{origin['vcs_info']['vcs']}+{url}" if "vcs_info" in origin else url
    return f"'modernbert[{extra}] @ {address}{f'@{revision}' if revision else ''}'"


def _origin() -> dict[str, Any] | None:
    """The source that pip recorded; None for a package from an index."""
    source = Path(__file__).parents[2]
    try:
        written = distribution("modernbert").read_text("direct_url.json")
    except PackageNotFoundError:
        if (source / "pyproject.toml").is_file():  # a source tree that is not installed
            return {"url": source.as_uri(), "dir_info": {"editable": True}}
        return None
    return json.loads(written) if written else None
