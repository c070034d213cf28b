"""The tables of the settings of fine-tuning in docs/finetuning.md, made from the types of the recipe.

    python docs/site/settings.py

Names, types and defaults are those of the classes; what a key means is the comment behind its field.
"""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Collection
from pathlib import Path

from modernbert.config import Config
from modernbert.tasks.kinds import task_class, trainable
from modernbert.text.records import Source
from modernbert.train.finetune_recipe import FinetuneRecipe, Machine, Search, TaskData, Training

PAGE = Path(__file__).parents[1] / "finetuning.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def tables() -> str:
    """All tables, in Markdown."""
    parts = [
        _section("The recipe itself", FinetuneRecipe, without={"data", "training", "machine", "search"}),
        _section("`[data]`", TaskData),
        _columns(),
        _section("One of the sources: `data.train`, `data.validation`, `data.test`", Source),
        _section("`[training]`", Training),
        _section("`[machine]`", Machine),
        _section("`[search]`, for `--search`", Search),
    ]
    return "\n".join(parts)


def _section(title: str, kind: type[Config], without: Collection[str] = ()) -> str:
    lines = [f"### {title}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
    comments = _comments(kind)
    for name, (annotation, meaning) in comments.items():
        if name in kind.model_fields and name not in without:
            lines.append(f"| `{name}` | {annotation} | {_default(kind, name)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _columns() -> str:
    lines = [
        "### The columns of each task, in `[data]` too",
        "",
        "| task | key | default | meaning |",
        "|---|---|---|---|",
    ]
    rows: dict[str, list[str]] = {}  # what a key is, and the tasks that have it
    for task in trainable():
        kind = task_class(task).columns_type
        for name in kind.model_fields:
            meaning = next(_comments(base)[name][1] for base in kind.__mro__ if name in _comments(base))
            rows.setdefault(f"| `{name}` | {_default(kind, name)} | {meaning} |", []).append(f"`{task}`")
    lines += [f"| {', '.join(tasks)} {row}" for row, tasks in rows.items()]
    return "\n".join(lines) + "\n"


def _default(kind: type[Config], name: str) -> str:
    field = kind.model_fields[name]
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _comments(kind: type) -> dict[str, tuple[str, str]]:
    """The annotation of each field of a class in words, and the comment behind it."""
    if kind is object or not issubclass(kind, Config):
        return {}
    source = inspect.getsource(kind)
    found = {}
    by_line = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    [body] = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            comment = " ".join(by_line[line] for line in range(node.lineno, node.end_lineno + 1) if line in by_line)
            found[node.target.id] = (_type(ast.unparse(node.annotation)), comment.replace("|", "\\|"))
    return found


_WORDS = {
    "PositiveInt": "integer > 0",
    "NonNegativeInt": "integer >= 0",
    "PositiveFloat": "number > 0",
    "NonNegativeFloat": "number >= 0",
    "float": "number",
    "str": "text",
    "bool": "true or false",
    "Path": "path",
    "Seed": "integer >= 0",
    "Source": "a path, or a table as below",
    "Format": "text",
    "TrackerName": "`tensorboard`, `wandb`, `trackio`",
}


def _type(annotation: str) -> str:
    annotation = annotation.removesuffix(" | None")
    annotation = re.sub(
        r"Literal\[([^]]*)\]",
        lambda match: " or ".join(f"`{name.strip(chr(39) + chr(34))}`" for name in match[1].split(", ")),
        annotation,
    )
    annotation = re.sub(r"tuple\[(\w+), \.\.\.\]", r"list of \1", annotation)
    annotation = re.sub(r"dict\[(\w+), (\w+)\]", r"a table of \2", annotation)
    words = re.sub(r"`[^`]*`|\w+", lambda match: _WORDS.get(match[0], match[0]), annotation)
    return words.replace(" | ", ", or ")


def page() -> str:
    """The page with new tables."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
