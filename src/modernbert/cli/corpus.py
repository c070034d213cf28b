"""Commands from raw text to token shards."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modernbert.cli.console import Corpus, Json, Overrides, Recipe, print_json, print_record
from modernbert.errors import ConfigError

app = typer.Typer()
tokenizer_app = typer.Typer(
    no_args_is_help=True,
    help="Train and evaluate tokenizers.",
    epilog="""Examples:

    modernbert tokenizer train texts/*.txt --vocab-size 32000 --output output/tokenizer

    modernbert tokenizer evaluate output/tokenizer texts/*.txt""",
)
app.add_typer(tokenizer_app, name="tokenizer")


@tokenizer_app.command(
    "train",
    epilog="""Examples:

    modernbert tokenizer train corpus.jsonl.gz --vocab-size 50368 --output my-tokenizer

    modernbert tokenizer train texts/ --kind unigram --vocab-size 32000 --output ja-tokenizer""",
)
def tokenizer_train(
    corpus: Corpus,
    output: Annotated[Path, typer.Option(help="The output folder.")],
    vocab_size: Annotated[int, typer.Option(help="Size of the vocabulary, special tokens included.")] = 50368,
    kind: Annotated[str, typer.Option(help="bpe (byte-level) or unigram (languages without spaces).")] = "bpe",
    text_key: Annotated[str, typer.Option(help="The text column of JSON lines and Parquet.")] = "text",
    limit_bytes: Annotated[int | None, typer.Option(help="Maximum number of bytes of text to read.")] = None,
) -> None:
    """Train a tokenizer with ModernBERT's special tokens."""
    from modernbert.text.documents import read_texts, take_bytes
    from modernbert.text.tokenizer_training import train_tokenizer

    if kind not in ("bpe", "unigram"):
        raise ConfigError(f"There is no tokenizer kind {kind!r}; choose bpe or unigram.")
    texts = take_bytes(read_texts(corpus, text_key), limit_bytes)
    tokenizer = train_tokenizer(texts, output, vocab_size=vocab_size, kind=kind)  # type: ignore[arg-type]
    typer.echo(f"{output}: {tokenizer.get_vocab_size(with_added_tokens=True):,} entries")


@tokenizer_app.command(
    "evaluate",
    epilog="""Examples:

    modernbert tokenizer evaluate my-tokenizer held-out.jsonl.gz

    modernbert tokenizer evaluate answerdotai/ModernBERT-base texts/ --json""",
)
def tokenizer_evaluate(
    tokenizer: Annotated[str, typer.Argument(help="A tokenizer folder or hub id.")],
    corpus: Corpus,
    text_key: Annotated[str, typer.Option(help="The text column of JSON lines and Parquet.")] = "text",
    limit_bytes: Annotated[int | None, typer.Option(help="Maximum number of bytes of text to read.")] = None,
    as_json: Json = False,
) -> None:
    """Measure how well a tokenizer fits some texts."""
    from modernbert.text.documents import read_texts, take_bytes
    from modernbert.text.tokenizer import load_tokenizer
    from modernbert.text.tokenizer_training import evaluate_tokenizer

    texts = take_bytes(read_texts(corpus, text_key), limit_bytes)
    report = asdict(evaluate_tokenizer(load_tokenizer(tokenizer), texts))
    print_record(report, as_json)


@app.command(
    epilog="""Examples:

    modernbert corpus recipes/tiny/corpus.toml

    modernbert corpus corpus.toml workers=8 output=/data/shards executor=ray"""
)
def corpus(recipe: Recipe, overrides: Overrides = None) -> None:
    """Convert text to token shards, with the filters and deduplication of the recipe, and write a report.

    The same command resumes an interrupted run.
    """
    from modernbert.config import load
    from modernbert.corpus.build import CorpusRecipe, build_corpus
    from modernbert.corpus.report import write_report

    loaded = load(CorpusRecipe, recipe, overrides or ())
    manifests = build_corpus(loaded)
    for manifest in manifests:
        skipped = "".join(f", {count:,} skipped: {reason}" for reason, count in manifest.skipped.items())
        typer.echo(
            f"{loaded.output / manifest.source}: {manifest.documents:,} documents, {manifest.tokens:,} tokens, "
            f"{manifest.bytes:,} bytes{skipped}"
        )
    typer.echo(f"report: {write_report(loaded, manifests)}")


@app.command(
    epilog="""Examples:

    modernbert inspect output/tiny/shards/library --length 1024

    modernbert inspect shards/encyclopedia --length 8192 --json"""
)
def inspect(
    shards: Annotated[Path, typer.Argument(help="A shard folder.")],
    length: Annotated[int, typer.Option(help="Length of a packed sequence in tokens.")] = 1024,
    as_json: Json = False,
) -> None:
    """Report documents, tokens, packed sequences and packing efficiency over one epoch."""
    from modernbert.stream.inspect import inspect as measure

    if length < 8:
        raise ConfigError(f"A length of {length} tokens is too short; give at least 8.")
    found = asdict(measure(shards, length))
    if as_json:
        print_json(found)
        return
    histogram = found.pop("histogram")
    found["packing_efficiency"] = f"{found['packing_efficiency']:.2%}"
    print_record(found, as_json=False)
    most = max(bin_["documents"] for bin_ in histogram)
    for bin_ in histogram:
        bar = "█" * round(40 * bin_["documents"] / most)
        typer.echo(f"{bin_['start']:>9,} to {bin_['stop'] - 1:>9,} tokens {bin_['documents']:>11,}  {bar}")
