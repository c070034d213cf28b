"""Commands that create training data for rankers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from modernbert.cli.console import Json, print_record
from modernbert.errors import ConfigError

app = typer.Typer()


@app.command(
    epilog="""Examples:

    modernbert mine pairs.csv --documents corpus.jsonl --output mined.jsonl

    modernbert mine my-collection --model output/retrieval/dense --negatives 7 --margin 0.05 --output mined.jsonl

    modernbert mine my-collection --check output/retrieval/rerank --output mined.jsonl"""
)
def mine(
    source: Annotated[str, typer.Argument(help="Pairs (CSV, JSON lines, ...), or a folder with a collection.")],
    output: Annotated[Path, typer.Option(help="Output: JSON lines with query, positive and negative, and a report.")],
    documents: Annotated[
        str | None, typer.Option(help="Source of the negatives: a collection, or a file with text. [default: SOURCE]")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the collection's judgements.")] = "train",
    model: Annotated[str | None, typer.Option(help="An embedder of any kind. [default: BM25]")] = None,
    check: Annotated[str | None, typer.Option(help="A reranker that rejects relevant negatives.")] = None,
    check_margin: Annotated[
        float, typer.Option(help="Minimum difference between the reranker's scores of positive and negative.")
    ] = 0.1,
    negatives: Annotated[int, typer.Option(help="Maximum number of negatives of a pair.")] = 5,
    first: Annotated[int, typer.Option(help="The first rank to use, counted from 1.")] = 10,
    last: Annotated[int, typer.Option(help="The last rank to use.")] = 100,
    choose: Annotated[str, typer.Option(help="top: the highest ranks; random: a random choice.")] = "top",
    margin: Annotated[
        float | None, typer.Option(help="Leave out scores above the positive's score minus this fraction of it.")
    ] = None,
    language: Annotated[
        str,
        typer.Option(help="Words of BM25: en (stems), any (pairs of characters in Japanese), or auto."),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of random negatives.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out invalid records, and count them.")] = False,
    as_json: Json = False,
) -> None:
    """Find hard negatives: documents with a high rank for a query that are not relevant.

    A document that any pair marks as relevant to a query is never a negative of it.
    """
    from modernbert.evaluate.retrieval import open_predictor
    from modernbert.files import atomic_write, check_file
    from modernbert.tasks.ranking.examples import RankingColumns, read_ranking, relevant_pairs
    from modernbert.tasks.ranking.mining import Mining
    from modernbert.tasks.ranking.mining import mine as find
    from modernbert.tasks.ranking.rankers import Bm25, EmbedderRanker, Ranker
    from modernbert.tasks.ranking.scoring import REPORT, mining_report, write_examples
    from modernbert.tasks.rerank import Reranker
    from modernbert.text.collection import read_collection, read_documents
    from modernbert.text.records import Source

    settings = Mining(
        negatives=negatives, first=first, last=last, choose=_choice(choose), margin=margin, check_margin=check_margin,
        seed=seed,
    )  # fmt: skip
    check_file(output, source, documents)
    report = output.with_suffix(".md")
    if report == output:
        raise ConfigError(f"{output} is the name of the report; name the output .jsonl.")
    check_file(report, source, documents)
    if report.exists() and not report.read_bytes().startswith(REPORT.encode()):
        raise ConfigError(f"The report would replace {report}, which is not one; choose another output.")
    if Path(source).is_file():
        pairs = read_ranking(Source(path=source), RankingColumns(), skip_bad=skip_bad)
        texts = None if documents is not None else list({text: None for pair in pairs for text in pair.documents})
    else:
        collection = read_collection(source, split, skip_bad=skip_bad)
        pairs = relevant_pairs(collection)
        texts = [one.content for one in collection.documents.values()]
    if documents is not None:
        texts = [one.content for one in read_documents(documents, skip_bad=skip_bad).values()]
    assert texts is not None
    ranker: Ranker = Bm25(language)
    if model is not None:
        predictor = open_predictor(model, None, device, False)
        if isinstance(predictor, Reranker):
            raise ConfigError(f"{model} is a reranker; give it as --check.")
        ranker = EmbedderRanker(predictor, model)
    checker = None if check is None else Reranker.from_pretrained(check, device=device)
    found = find(pairs, texts, ranker, settings, checker)
    count = write_examples(found.examples, output)
    with atomic_write(report) as partial:
        partial.write_text(mining_report(found, settings, ranker.name, len(pairs)), encoding="utf-8")
    print_record(
        {"pairs": len(pairs), "with_negatives": count, **found.left_out, "data": str(output), "report": str(report)},
        as_json,
    )


@app.command(
    epilog="""Examples:

    modernbert score mined.jsonl --teacher output/retrieval/rerank --output scored.jsonl

    modernbert finetune scored.jsonl task=embed model=english-28m loss.name=margin-mse"""
)
def score(
    source: Annotated[str, typer.Argument(help="Pairs, triples or lists (CSV, JSON lines, ...).")],
    teacher: Annotated[str, typer.Option(help="A reranker, or an embedder with one vector per text.")],
    output: Annotated[Path, typer.Option(help="JSON lines with query, documents and scores.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out invalid records, and count them.")] = False,
    as_json: Json = False,
) -> None:
    """Score the documents of each query with a teacher, for losses that learn scores (distillation)."""
    from modernbert.evaluate.retrieval import open_predictor
    from modernbert.files import check_file
    from modernbert.tasks.ranking.examples import RankingColumns, read_ranking
    from modernbert.tasks.ranking.scoring import as_teacher, with_teacher_scores, write_examples
    from modernbert.text.records import Source

    check_file(output, source)
    examples = read_ranking(Source(path=source), RankingColumns(), skip_bad=skip_bad)
    count = write_examples(
        with_teacher_scores(examples, as_teacher(open_predictor(teacher, None, device, False))), output
    )
    print_record({"queries": count, "pairs": sum(len(one.documents) for one in examples), "data": str(output)}, as_json)


def _choice(name: str) -> Literal["top", "random"]:
    if name == "top":
        return "top"
    if name == "random":
        return "random"
    raise ConfigError(f"--choose is {name!r}; choose top or random.")
