"""A report of a corpus, to read before training: statistics, refused documents by reason, and samples."""

import html
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modernbert.corpus import samples
from modernbert.corpus.recipe import CorpusRecipe, Source
from modernbert.files import atomic_write
from modernbert.installation import install_command
from modernbert.stream.manifest import Manifest
from modernbert.stream.shards import Shards
from modernbert.text.tokenizer import load_tokenizer

NAME = "report.html"
DUPLICATES = ("duplicate", "near duplicate")  # the reasons that deduplication gives

_COLUMNS = ["source", "documents", "tokens", "share", "bytes", "bytes/token", "median", "longest"]
_COLUMNS += ["refused", "duplicates"]
_KEPT_SAMPLES = 5
_SAMPLE_TOKENS = 200
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd }
th { text-align: left } td.n { text-align: right; font-variant-numeric: tabular-nums }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .6rem; margin: .3rem 0 1rem }
summary { cursor: pointer } small { color: #666 } svg { max-width: 100%; height: auto }
"""


@dataclass(frozen=True)
class _Facts:
    """The data of one source in the report."""

    source: Source
    manifest: Manifest
    lengths: npt.NDArray[np.int64]
    kept: list[tuple[str, str]]
    refused: dict[str, list[tuple[str, str]]]

    @property
    def duplicates(self) -> int:
        return sum(self.manifest.skipped.get(reason, 0) for reason in DUPLICATES)

    @property
    def filtered(self) -> int:
        return sum(self.manifest.skipped.values()) - self.duplicates


def write_report(recipe: CorpusRecipe, manifests: Sequence[Manifest]) -> Path:
    """Write `report.html` into the folder of a corpus, atomically. Returns its path.

    The file has a table of the sources, plots if matplotlib is installed, every reason with its count, and samples of
    kept and refused texts.

    Raises:
        DataError: the shards are damaged.
    """
    facts = [_facts(source, manifest, recipe) for source, manifest in zip(recipe.sources, manifests, strict=True)]
    title = f"Corpus {html.escape(str(recipe.output))}"
    body = [f"<h1>{title}</h1>", _table(facts), _plots(facts), *map(_section, facts)]
    page = f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    page += f"<style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    path = recipe.output / NAME
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _facts(source: Source, manifest: Manifest, recipe: CorpusRecipe) -> _Facts:
    folder = recipe.output / source.name
    shards, tokenizer = Shards.open(folder), load_tokenizer(recipe.tokenizer)
    sample = np.random.default_rng(0).choice(
        shards.num_documents, min(_KEPT_SAMPLES, shards.num_documents), replace=False
    )
    kept = []
    for number in sorted(sample.tolist()):
        ids = shards.document(number)
        more = " …" if len(ids) > _SAMPLE_TOKENS else ""
        text = tokenizer.decode(ids[:_SAMPLE_TOKENS].tolist(), skip_special_tokens=False)
        kept.append((f"document {number}, {len(ids):,} tokens", text + more))
    return _Facts(source, manifest, shards.lengths, kept, samples.read(folder))


def _table(facts: Sequence[_Facts]) -> str:
    all_tokens = max(1, sum(fact.manifest.tokens for fact in facts))
    rows = []
    for fact in facts:
        manifest = fact.manifest
        numbers = [
            f"{manifest.documents:,}",
            f"{manifest.tokens:,}",
            f"{manifest.tokens / all_tokens:.1%}",
            f"{manifest.bytes:,}",
            f"{manifest.bytes / max(1, manifest.tokens):.2f}",
            f"{int(np.median(fact.lengths)):,}",
            f"{int(fact.lengths.max()):,}",
            f"{fact.filtered:,}",
            f"{fact.duplicates:,}",
        ]
        rows.append(_row(manifest.source, numbers))
    if len(facts) > 1:
        total = [sum(getattr(fact.manifest, name) for fact in facts) for name in ("documents", "tokens", "bytes")]
        ratio, lengths = total[2] / max(1, total[1]), np.concatenate([fact.lengths for fact in facts])
        refused, duplicates = sum(fact.filtered for fact in facts), sum(fact.duplicates for fact in facts)
        numbers = [f"{total[0]:,}", f"{total[1]:,}", "100%", f"{total[2]:,}", f"{ratio:.2f}"]
        numbers += [f"{int(np.median(lengths)):,}", f"{int(lengths.max()):,}", f"{refused:,}", f"{duplicates:,}"]
        rows.append(_row("all", numbers))
    heads = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    note = "Median and longest are tokens of a document; bytes are those of the text as UTF-8."
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>\n<p><small>{note}</small></p>"


def _row(name: str, numbers: Iterable[str]) -> str:
    return f"<tr><td>{html.escape(name)}</td>" + "".join(f'<td class="n">{n}</td>' for n in numbers) + "</tr>"


def _section(fact: _Facts) -> str:
    source, manifest = fact.source, fact.manifest
    steps = [f"language {source.language} ({source.language_model})"] if source.language else []
    steps += [f"filters {', '.join(source.filters)}"] if source.filters else []
    steps += [f"deduplication {source.deduplicate}"] if source.deduplicate else []
    parts = [f"<h2>{html.escape(source.name)}</h2>"]
    parts.append(f"<p>{html.escape('; '.join(steps) or 'no filter, no deduplication')}</p>")
    if manifest.skipped:
        read = manifest.documents + sum(manifest.skipped.values())
        rows = [_row("kept", [f"{manifest.documents:,}", f"{manifest.documents / read:.1%}"])]
        for reason, count in sorted(manifest.skipped.items(), key=lambda item: -item[1]):
            rows.append(_row(reason, [f"{count:,}", f"{count / read:.1%}"]))
        parts.append(f"<table><tr><th>documents read</th><th></th><th></th></tr>{''.join(rows)}</table>")
    parts.append(_texts("kept", fact.kept))
    parts += [_texts(reason, texts) for reason, texts in fact.refused.items()]
    return "\n".join(parts)


def _texts(name: str, samples_of_reason: Sequence[tuple[str, str]]) -> str:
    shown = "".join(
        f'<small>{html.escape(origin)}</small><pre dir="auto">{html.escape(text) or "(no text)"}</pre>'
        for origin, text in samples_of_reason
    )
    return f"<details><summary>{len(samples_of_reason)} x {html.escape(name)}</summary>{shown}</details>"


def _plots(facts: Sequence[_Facts]) -> str:
    try:
        import matplotlib
    except ImportError:
        return f"<p>There are no plots, as matplotlib is not installed: {html.escape(install_command('plot'))}.</p>"
    from matplotlib.figure import Figure

    settings = {"svg.fonttype": "none", "svg.hashsalt": "modernbert", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font may lack letters of a source's name, but the browser has them
        figure = Figure(figsize=(14, 2.6 + 0.3 * len(facts)), layout="constrained")
        lengths, shares, results = figure.subplots(1, 3)
        _draw_lengths(lengths, facts)
        _draw_shares(shares, facts)
        _draw_results(results, facts)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def _draw_lengths(axes: Any, facts: Sequence[_Facts]) -> None:
    lengths = np.concatenate([fact.lengths for fact in facts])
    shortest, longest = np.log2(np.maximum(1, [lengths.min(), lengths.max()]))
    edges = 2 ** np.arange(np.floor(shortest), longest + 1, 0.5)
    for fact in facts:
        shares = np.histogram(fact.lengths, bins=edges)[0] / len(fact.lengths)
        axes.stairs(shares, edges, label=fact.source.name)
    axes.set_xscale("log", base=2)
    axes.set(title="length of documents", xlabel="tokens", ylabel="share of documents")
    axes.legend(frameon=False, fontsize="small")


def _draw_shares(axes: Any, facts: Sequence[_Facts]) -> None:
    rows = np.arange(len(facts))
    for name, shift in (("tokens", -0.2), ("documents", 0.2)):
        numbers = np.array([getattr(fact.manifest, name) for fact in facts])
        axes.barh(rows + shift, 100 * numbers / numbers.sum(), 0.4, label=name)
    axes.set(title="share of the sources", xlabel="%")
    _names(axes, facts)


def _draw_results(axes: Any, facts: Sequence[_Facts]) -> None:
    counts = np.array([(fact.manifest.documents, fact.filtered, fact.duplicates) for fact in facts])
    shares, left = 100 * counts / counts.sum(1, keepdims=True), np.zeros(len(facts))
    for name, colour, share in zip(("kept", "refused", "duplicates"), ("C2", "C7", "C3"), shares.T, strict=True):
        axes.barh(np.arange(len(facts)), share, left=left, color=colour, label=name)
        left += share
    axes.set(title="kept and refused documents", xlabel="%")
    _names(axes, facts)


def _names(axes: Any, facts: Sequence[_Facts]) -> None:
    axes.set_yticks(np.arange(len(facts)), [fact.source.name for fact in facts])
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
