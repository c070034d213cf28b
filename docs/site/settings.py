"""The tables of settings in docs/finetuning.md and docs/retrieval-training.md, generated from the types of the recipes.

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
from typing import get_args

from modernbert.config import Config
from modernbert.model.pooling import PoolingMode
from modernbert.run_metrics import TrackerName
from modernbert.tasks.kinds import task_class, trainable_tasks
from modernbert.tasks.ranking.examples import RankingColumns
from modernbert.tasks.ranking.settings import LossName, RankingKind, RankingLoss
from modernbert.tasks.ranking.unlabelled import PairKind, Unlabelled
from modernbert.text.records import Source
from modernbert.train.finetune_recipe import FinetuneRecipe, Machine, Search, TaskData, Training
from modernbert.train.ranking_recipe import RankingData, RankingModelSettings, RankingRecipe

DOCS = Path(__file__).parents[1]
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def finetuning_tables() -> str:
    """The settings of fine-tuning, in Markdown."""
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


def ranking_tables() -> str:
    """The settings of rankers, in Markdown; settings shared with fine-tuning are a link."""
    sections = {"data", "settings", "loss", "training", "machine"}
    parts = [
        _section("The recipe itself", RankingRecipe, without=sections),
        _section("`[data]`", RankingData, without={"columns", "unlabelled"}),
        _section("`[data.columns]`: names of columns; unset: the usual names", RankingColumns),
        _section("`[data.unlabelled]`: pairs from `data.documents`", Unlabelled),
        _section("`[settings]`, of a model that starts from a plain encoder", RankingModelSettings),
        _section("`[loss]`", RankingLoss),
        "`[training]`, `[machine]` and the keys of a source are those of [fine-tuning](finetuning.md#all-settings); "
        "`batch_tokens` and `class_weights` are not for rankers.\n",
    ]
    return "\n".join(parts).replace("a table as below", "a [table](finetuning.md#all-settings)")


PAGES = {DOCS / "finetuning.md": finetuning_tables, DOCS / "retrieval-training.md": ranking_tables}


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
    rows: dict[str, list[str]] = {}  # the description of a key, and its tasks
    for task in trainable_tasks():
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
    if isinstance(value, float):
        return f"`{value:.4g}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _comments(kind: type) -> dict[str, tuple[str, str]]:
    """The annotation of each field of a class in words, and its comment."""
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
    "int": "integer",
    "str": "text",
    "bool": "true or false",
    "Path": "path",
    "Seed": "integer >= 0",
    "Source": "a path, or a table as below",
    "Format": "text",
    **{
        name: " or ".join(f"`{value}`" for value in get_args(choices))
        for name, choices in {
            "TrackerName": TrackerName,
            "RankingKind": RankingKind,
            "LossName": LossName,
            "PairKind": PairKind,
            "PoolingMode": PoolingMode,
        }.items()
    },
}


def _type(annotation: str) -> str:
    annotation = annotation.removesuffix(" | None")
    annotation = re.sub(
        r"Literal\[([^]]*)\]",
        lambda match: " or ".join(f"`{name.strip(chr(39) + chr(34))}`" for name in match[1].split(", ")),
        annotation,
    )
    annotation = re.sub(r"tuple\[(\w+), \.\.\.\]", r"list of \1", annotation)
    annotation = re.sub(r"tuple\[(float, float|int, int)\]", "two numbers", annotation)
    annotation = re.sub(r"dict\[(\w+), (\w+)\]", r"a table of \2", annotation)
    words = re.sub(r"`[^`]*`|\w+", lambda match: _WORDS.get(match[0], match[0]), annotation)
    return words.replace(" | ", ", or ")


def page(path: Path) -> str:
    """A page with new tables."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{PAGES[path]()}\n{END}{after}"


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(page(path), encoding="utf-8")
