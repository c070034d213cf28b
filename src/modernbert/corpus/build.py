"""Text to token shards: our readers and writer as steps of a datatrove pipeline, run by its executors.

Each input file (or some hundred small ones) is a task; a task writes one shard. A source is built in a hidden folder,
whose name has a part of the fingerprint of files and options, and which is renamed when all tasks are done. So a shard
folder is complete or absent, and an interrupted source resumes with the unfinished tasks. The result does not depend on
the number of workers.
"""

import contextlib
import glob
import hashlib
import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modernbert.corpus.recipe import CorpusRecipe, Source
from modernbert.corpus.samples import NAME as REFUSED
from modernbert.corpus.samples import Samples
from modernbert.errors import ConfigError, DataError
from modernbert.files import LOCK, FileRecord, file_record, in_use, is_unchanged, move_into_place
from modernbert.installation import install_command
from modernbert.stream.manifest import Manifest, ShardFile
from modernbert.text import documents as reading
from modernbert.text.tokenizer import Vocabulary, load_tokenizer, sha256, tokenizer_file

__all__ = ["CorpusRecipe", "Source", "build_corpus"]

logger = logging.getLogger(__name__)

_FINGERPRINT = "fingerprint"  # a file in an unfinished folder
_RECORDS = "inputs"  # an unfinished folder has records of the files that each task has read; a finished one a .json
_LANGUAGE_MODEL = "language-model"  # in that folder: the record of a language model that is a file
_WORK = ("logs", "progress", "refused", "documents", "search", _RECORDS)  # subfolders of an unfinished folder
_FILES_PER_TASK = 256  # small text files; each JSON lines or Parquet file is a task
_BATCH_CHARACTERS = 2_000_000  # tokenized at once
_FORMAT = "modernbert.data.manifest"  # identifies the format of the shards; another name would rebuild all of them
# Keys that were added later: they change a fingerprint only if they are set, so that older shards stay valid.
_LATER_KEYS = (
    "language",
    "language_score",
    "language_model",
    "filters",
    "filter_options",
    "deduplicate",
    "minhash",
)


def build_corpus(recipe: CorpusRecipe) -> list[Manifest]:
    """Write the shards of every source that is not complete. Returns all manifests, in the order of the recipe.

    Raises:
        DataError: datatrove is missing, a path has no file, a source has no document, or its folder was built from
            other files, from files that have changed, or with another tokenizer.
    """
    try:
        import datatrove  # noqa: F401
    except ImportError:
        raise DataError(f"`modernbert corpus` needs datatrove: {install_command('corpus')}.") from None
    from modernbert.corpus import executors

    load_tokenizer(recipe.tokenizer)
    with executors.session(recipe):
        return [_build_source(source, recipe) for source in recipe.sources]


def _build_source(source: Source, recipe: CorpusRecipe) -> Manifest:
    files = reading.find_files(source.paths, source.pattern)
    tokenizer_hash = sha256(recipe.tokenizer)
    fingerprint = _fingerprint(source, files, tokenizer_hash)
    target = recipe.output / source.name
    if target.exists():
        existing = Manifest.read(target)
        if existing is None or existing.fingerprint != fingerprint:
            raise DataError(
                f"{target} was built from other files, options or tokenizer; remove it or choose another output."
            )
        if changed := _changed(_tasks(files, source), source, _read_records(target)):
            raise DataError(f"{target} was built before {changed} changed; remove it or choose another output.")
        logger.info("%s: already complete, %s tokens", source.name, f"{existing.tokens:,}")
        return existing
    recipe.output.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(recipe.output, source.name, fingerprint)
    partial = _partial(recipe.output, source.name, fingerprint)
    partial.mkdir(exist_ok=True)
    with in_use(partial):
        result = _build_files(source, recipe, files, partial, tokenizer_hash, fingerprint)
        try:
            move_into_place(partial, target)
        except OSError as error:
            raise DataError(f"{target} cannot be created ({error.strerror}); give the same command again.") from None
        (target / LOCK).unlink(missing_ok=True)
    for reason, count in result.skipped.items():
        logger.warning("%s: skipped %d documents: %s", source.name, count, reason)
    logger.info("%s: %s documents, %s tokens", source.name, f"{result.documents:,}", f"{result.tokens:,}")
    return result


def _partial(output: Path, name: str, fingerprint: str) -> Path:
    return output / f".{name}.{fingerprint[:12]}.partial"


def _remove_abandoned(output: Path, name: str, fingerprint: str) -> None:
    """Remove unfinished folders of this source with other files or options, unless a process is using them."""
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{12}}\.partial")
    for path in output.glob(".*.partial"):
        other = _read(path / _FINGERPRINT)
        if other is None or other == fingerprint or path.is_symlink() or not pattern.fullmatch(path.name):
            continue
        with contextlib.suppress(ConfigError, OSError), in_use(path):
            shutil.rmtree(path)


def _build_files(
    source: Source, recipe: CorpusRecipe, files: list[Path], partial: Path, tokenizer_hash: str, fingerprint: str
) -> Manifest:
    """Build all files of a shard folder in `partial`."""
    tasks = _tasks(files, source)
    if changed := _changed(tasks, source, _read_records(partial)):
        logger.warning("%s: %s has changed since it was read; the source is built again.", source.name, changed)
        _remove_work(partial, source.name)
    (partial / _FINGERPRINT).write_text(fingerprint, encoding="utf-8")
    _record_language_model(source, partial)
    _run(tasks, source, recipe, partial)
    result = _summary(tasks, source, recipe, partial, tokenizer_hash, fingerprint)
    if result.documents == 0:
        shutil.rmtree(partial)
        reasons = ", ".join(f"{count} x {reason}" for reason, count in result.skipped.items()) or "the files are empty"
        and_filters = " and the filters" if source.language or source.filters else ""
        raise DataError(
            f"The source {source.name!r} has no usable document ({reasons}); check paths and text_key{and_filters}."
        )
    result.write(partial)
    (partial / f"{_RECORDS}.json").write_text(json.dumps(_read_records(partial)), encoding="utf-8")
    Samples.join(partial / "refused").write(partial / REFUSED)
    for leftover in _WORK:
        shutil.rmtree(partial / leftover, ignore_errors=True)
    (partial / _FINGERPRINT).unlink()
    return result


def _tasks(files: list[Path], source: Source) -> list[list[Path]]:
    tasks: list[list[Path]] = []
    small: list[Path] = []
    for path in files:
        if (reading.guess_kind(path) if source.kind == "auto" else source.kind) != "text":
            tasks.append([path])
        else:
            small.append(path)
    return tasks + [small[first : first + _FILES_PER_TASK] for first in range(0, len(small), _FILES_PER_TASK)]


def _run(tasks: list[list[Path]], source: Source, recipe: CorpusRecipe, partial: Path) -> None:
    from modernbert.corpus import executors
    from modernbert.corpus.steps import SourceReader, TokenShardWriter

    def run(steps: list[Any], number: int, logs: Path) -> None:
        executors.run(recipe, source.name, steps, number, logs)

    steps: list[Any] = [
        SourceReader(
            tasks, source.kind, source.text_key, source.min_characters, source.limit_documents, partial / _RECORDS
        )
    ]
    logs = partial / "logs"
    if source.language is not None or source.filters:
        steps.append(_filter_step(source))
    if source.deduplicate is not None:
        steps = _without_duplicates(steps, source, partial, len(tasks), run)
        logs = logs / "shards"
    (partial / "progress").mkdir(exist_ok=True)
    steps.append(TokenShardWriter(partial, source.name, tokenizer_file(recipe.tokenizer), _BATCH_CHARACTERS))
    with _Progress(partial / "progress", source.name):
        run(steps, len(tasks), logs)


def _filter_step(source: Source) -> Any:
    try:
        from modernbert.corpus import filters
    except ImportError as error:
        raise _missing(error) from None
    filters.make_filters(source)  # raises an error for missing packages before any file is read
    return filters.FilterStep(source)


def _without_duplicates(
    steps: list[Any], source: Source, partial: Path, tasks: int, run: Callable[[list[Any], int, Path], None]
) -> list[Any]:
    """Run the stages that find duplicates. Returns the steps that read the other documents."""
    try:
        from modernbert.corpus import deduplication, filters
    except ImportError as error:
        raise _missing(error) from None
    if source.deduplicate == "minhash":
        filters.check_words(source.language or "en")
    documents, search, logs = partial / "documents", partial / "search", partial / "logs"
    logger.info("%s: reading and comparing documents", source.name)
    run(
        [*steps, deduplication.StagedDocuments(documents), deduplication.signatures(source, search)],
        tasks,
        logs / "read",
    )
    for name, step, number in deduplication.searches(source, search):
        run([step], number, logs / name)
    return [deduplication.UniqueReader(documents, source, search)]


def _missing(error: ImportError) -> DataError:
    return DataError(f"Filters and deduplication need more packages ({error}): {install_command('filters')}.")


def _summary(
    tasks: list[list[Path]],
    source: Source,
    recipe: CorpusRecipe,
    partial: Path,
    tokenizer_hash: str,
    fingerprint: str,
) -> Manifest:
    vocabulary = Vocabulary.of(load_tokenizer(recipe.tokenizer))
    counts = [json.loads((partial / "progress" / f"{rank:05d}.json").read_text()) for rank in range(len(tasks))]
    skipped: dict[str, int] = {}
    for count in counts:
        for reason, number in count["skipped"].items():
            skipped[reason] = skipped.get(reason, 0) + number
    return Manifest(
        source=source.name,
        documents=sum(count["documents"] for count in counts),
        tokens=sum(count["tokens"] for count in counts),
        bytes=sum(count["bytes"] for count in counts),
        token_bytes=counts[0]["token_bytes"],
        vocab_size=vocabulary.size,
        tokenizer=recipe.tokenizer,
        tokenizer_sha256=tokenizer_hash,
        fingerprint=fingerprint,
        skipped=dict(sorted(skipped.items())),
        files=tuple(
            ShardFile(name=count["file"], documents=count["documents"], tokens=count["tokens"]) for count in counts
        ),
    )


def _fingerprint(source: Source, files: list[Path], tokenizer_hash: str) -> str:
    """A hash of everything that could change the shards."""
    options = source.model_dump(mode="json")
    for key in _LATER_KEYS:
        if getattr(source, key) == Source.model_fields[key].get_default(call_default_factory=True):
            del options[key]
    content: list[Any] = [_FORMAT, options, tokenizer_hash]
    content += [(path.name, path.stat().st_size) for path in files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _record_language_model(source: Source, partial: Path) -> None:
    if source.language is not None and Path(source.language_model).is_file():
        (partial / _RECORDS).mkdir(exist_ok=True)
        record = json.dumps([file_record(Path(source.language_model))])
        (partial / _RECORDS / f"{_LANGUAGE_MODEL}.json").write_text(record, encoding="utf-8")


def _read_records(folder: Path) -> dict[str, list[FileRecord]]:
    """Records of the files that the shards are built from, by task; none of an earlier version."""
    joined = folder / f"{_RECORDS}.json"
    paths = [joined] if joined.is_file() else sorted((folder / _RECORDS).glob("*.json"))
    try:
        records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
        records = records[_RECORDS] if joined in paths else records
        return {task: [(int(size), int(at), str(content)) for size, at, content in records[task]] for task in records}
    except (ValueError, TypeError):
        raise DataError(f"{folder} is damaged: its {_RECORDS} cannot be read; remove it.") from None


def _changed(tasks: list[list[Path]], source: Source, records: dict[str, list[FileRecord]]) -> Path | None:
    """The first file that differs from its record."""
    files_of_task = {f"{rank:05d}": paths for rank, paths in enumerate(tasks)}
    files_of_task[_LANGUAGE_MODEL] = [Path(source.language_model)]
    for task, task_records in records.items():
        for path, record in zip(
            files_of_task.get(task, ()), task_records, strict=False
        ):  # with a limit, the last files may be unread
            if not path.is_file() or not is_unchanged(path, record):
                return path
    return None


def _remove_work(partial: Path, name: str) -> None:
    """Remove everything that the tasks have written."""
    for path in (*(partial / folder for folder in _WORK), *partial.glob(f"{glob.escape(name)}-*.ds*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


class _Progress:
    """A progress bar over the counts that the workers write."""

    def __init__(self, folder: Path, name: str) -> None:
        from modernbert.progress import Progress

        self._folder = folder
        self._bar = Progress(desc=name, unit=" tokens", unit_scale=True)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._update()
        self._bar.close()

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            self._update()

    def _update(self) -> None:
        self._bar.update(sum(self._tokens()) - self._bar.n)

    def _tokens(self) -> Iterator[int]:
        for path in self._folder.glob("*.json"):
            yield json.loads(path.read_text(encoding="utf-8"))["tokens"]
