"""Extension of mkdocstrings: special tokens in docstrings, such as [MASK], are code, not links."""

import re
from typing import Any

import griffe

_SPECIAL_TOKEN = re.compile(r"(?<!`)\[(CLS|SEP|MASK|PAD|UNK)\](?!`)")


class PlainText(griffe.Extension):
    """Shows special tokens such as [MASK] as code: to Markdown they are links."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _SPECIAL_TOKEN.sub(r"`[\1]`", obj.docstring.value)
