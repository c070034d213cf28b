"""Parts of a report in Markdown: tables, escaped cells, and the settings of a run."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def cell(text: str, longest: int) -> str:
    """A text escaped for a table cell, so that no markup in it is interpreted and no picture is loaded."""
    flat = " ".join(text.split())
    flat = flat if len(flat) <= longest else f"{flat[: longest - 1]}…"
    return re.sub(r"([\\|`*_~\[\]!])", r"\\\1", flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def settings_block(settings: Mapping[str, Any]) -> str:
    """A code block with the whole recipe, fenced so that no value in it can end the block."""
    text = tomli_w.dumps(settings).strip()
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))  # longer than any in a value
    return f"## Settings\n\n{fence}toml\n{text}\n{fence}\n"
