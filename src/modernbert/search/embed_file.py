"""Vectors of the texts of a file, written to .npy, Parquet or a database; shards are kept until all are complete."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from modernbert.errors import ConfigError, DataError
from modernbert.files import atomic_write, check_file, file_hash, locked
from modernbert.installation import install_command
from modernbert.kernels import native
from modernbert.progress import Progress
from modernbert.search.model_hash import model_hash
from modernbert.search.stages import merge_rows
from modernbert.search.stores.store import Row, open_store, plain
from modernbert.tasks.embed import Embedder
from modernbert.tasks.quantization import Precision, quantize
from modernbert.text.opening import read_lines
from modernbert.text.records import RejectedRecord, format_of, read_file

if TYPE_CHECKING:
    from modernbert.corpus.executors import Machines

SHARD_ROWS = 2048  # a stopped run loses at most one shard
_IDS = ("_id", "id", "docid", "doc_id")


def read_rows(path: Path, text_key: str = "text") -> Iterator[Row]:
    """The texts of a file: its lines, or the column `text_key` of a table or JSON.

    Raises:
        DataError: there is no such file or column, or a text is empty. (Row n of the results must be text n.)
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    kind = format_of(path)
    if kind not in ("jsonl", "json", "csv", "tsv", "parquet"):
        for number, line in read_lines(path):
            yield _row(line.rstrip("\r\n"), str(number - 1), f"{path}:{number}", {})
        return
    for count, record in enumerate(read_file(path, kind)):
        if isinstance(record, RejectedRecord):
            raise record.error()
        if text_key not in record.values:
            raise DataError(
                f"{record.origin}: there is no column {text_key!r}; there are {', '.join(map(str, record.values))}: "
                "name it with --text-key."
            )
        key = next((key for key in _IDS if record.values.get(key) is not None), None)
        name = str(count) if key is None else str(record.values[key])
        others = {name: value for name, value in record.values.items() if name not in (text_key, key)}
        yield _row(record.values[text_key], name, str(record.origin), others)


def embed_file(
    file: Path,
    model: str,
    output: Path | None = None,
    *,
    to: str | None = None,
    key: str | None = None,
    text_key: str = "text",
    prompt_name: str | None = None,
    truncate_dim: int | None = None,
    normalize: bool = False,
    precision: Precision = "float32",
    chunk: bool = False,
    device: str = "auto",
    int8: bool = False,
    machines: "Machines | None" = None,
) -> dict[str, Any]:
    """Write a vector for each text into the file `output`, the table `to` or both, and return a report.

    `to` names a table in the form of `open_store` (`key` is the API key of Qdrant). Rows with the same ids are
    replaced, and other rows stay. Shards of fp32 vectors are kept in a folder beside `output` or `file` until
    everything is written: a stopped run resumes with the same settings and gives the same bytes. int8 and uint8 are
    calibrated on the vectors of the first shard.

    With `machines`, several processes, Slurm jobs or Ray tasks compute the shards; the bytes are the same.

    Raises:
        DataError: a text is empty or missing, a stopped run had other settings, or the database reports an error.
        ConfigError: `output` is neither .npy nor .parquet, `to` is not a table, or the precision is unknown.
    """
    _check_targets(output, to, precision)
    if not file.is_file():
        raise DataError(f"There is no file {file}.")
    if output is not None:
        check_file(output, file)
    if to is not None:
        _check_store(to, key, model, truncate_dim)
        _check_ids(file, text_key)
    settings = {
        "file": file.name,
        "hash": file_hash(file),
        "model": model_hash(model),
        "text_key": text_key,
        "prompt_name": prompt_name,
        "truncate_dim": truncate_dim,
        "normalize": normalize,
        "chunk": chunk,
        "int8": int8,
    }
    beside = output or file
    parts = beside.with_name(f"{beside.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    with locked(parts):
        settings = _begin(parts, settings)
        if machines is not None:
            from modernbert.search.embed_on_machines import run_on_machines

            run_on_machines(parts, file, model, settings, device, machines)
        count = write_shards(parts, file, model, settings, device)
        if not count:
            shutil.rmtree(parts)
            raise DataError(f"{file} holds no text.")
        shards = sorted(parts.glob("*.npz"))
        with np.load(shards[0]) as first:
            calibration = first["vectors"]
        report: dict[str, Any] = {"vectors": count, "dimensions": int(calibration.shape[1]), "precision": precision}
        if output is not None:
            (_write_npy if output.suffix == ".npy" else _write_parquet)(shards, output, precision, calibration)
            report = {"output": str(output)} | report
        if to is not None:
            report = {"table": _write_store(shards, read_rows(file, text_key), to, key, count)} | report
        shutil.rmtree(parts)
    return report


def _check_targets(output: Path | None, to: str | None, precision: str) -> None:
    if output is None and to is None:
        raise ConfigError("Name a target for the vectors: --output vectors.npy, or --to a table of a database.")
    if output is not None and output.suffix not in (".npy", ".parquet"):
        raise ConfigError(f"{output} should end with .npy or .parquet.")
    if precision not in get_args(Precision):
        raise ConfigError(f"There is no precision {precision!r}; there are {', '.join(get_args(Precision))}.")
    if to is not None and precision != "float32":
        raise ConfigError(f"A database stores float32 and quantizes it itself; leave --precision {precision} out.")


def _check_store(to: str, key: str | None, model: str, truncate_dim: int | None) -> None:
    """Check, before any text is embedded, that the database works and that the table fits the model."""
    with open_store(to, key) as store:
        store.check(truncate_dim or Embedder.from_pretrained(model, device="cpu").dimensions)


def _check_ids(file: Path, text_key: str) -> None:
    """Check that all ids are different: in a table, one text would replace the other."""
    seen: set[str] = set()
    for row in read_rows(file, text_key):
        if plain(row.id) != row.id:
            raise DataError(f"{row.origin}: the id {row.id!a} is not valid Unicode; correct it.")
        if row.id in seen:
            raise DataError(
                f"{row.origin}: an earlier text has the id {row.id!r} too; give every text a different one."
            )
        seen.add(row.id)


def _write_store(shards: Sequence[Path], rows: Iterator[Row], to: str, key: str | None, count: int) -> str:
    """Write the rows of all shards, and return the name of the table for messages."""
    with open_store(to, key) as store, Progress(total=count, unit=" rows", desc="writing") as bar:
        for path in shards:
            with np.load(path) as arrays:
                vectors = arrays["vectors"]
            batch = list(islice(rows, len(vectors)))
            if path == shards[0] and not store.check(vectors.shape[1]):
                store.create(vectors.shape[1])
            store.upsert(batch, vectors)
            bar.update(len(batch))
        store.build_index()
        return store.name


def _row(text: object, name: str, origin: str, others: Mapping[str, Any]) -> Row:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{origin}: the text is {'empty' if isinstance(text, str) else 'missing'}; leave the line out.")
    return Row(name, text, origin, others)


def _begin(parts: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the native kernels to use: those of an earlier run that is resumed, or the current ones."""
    path = parts / "settings.json"
    if not path.is_file():
        if any(parts.iterdir()):
            raise DataError(f"{parts} holds other files than shards of vectors; choose another --output.")
        settings = settings | {"kernels": native.choices()}
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(settings), encoding="utf-8")
        return settings
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and "kernels" in found and found | settings == found:
        return found
    raise DataError(f"{parts} holds shards of a run with other settings; give the same ones again, or remove it.")


def write_shards(
    parts: Path, file: Path, model: str, settings: dict[str, Any], device: str, rank: int = 0, world: int = 1
) -> int:
    """Write the missing shards of this rank, and return the total number of texts.

    Rank r computes the shards r, r + `world`, ... The model loads only if a shard is missing.

    Raises:
        BackendError: this machine does not have the kernels with which the run was started.
    """
    rows = read_rows(file, settings["text_key"])
    embedder: Embedder | None = None
    total = 0
    with Progress(unit=" texts", desc="embedding", disable=world > 1) as bar:
        while shard := list(islice(rows, SHARD_ROWS)):
            path = parts / f"{total:012d}.npz"
            if not path.is_file() and total // SHARD_ROWS % world == rank:
                if embedder is None:
                    native.use_choices(settings["kernels"])
                    embedder = Embedder.from_pretrained(model, device=device, int8=settings["int8"])
                encode = embedder.encode_document if settings["prompt_name"] is None else embedder.encode
                options = {"prompt_name": settings["prompt_name"]} if settings["prompt_name"] is not None else {}
                vectors = encode(
                    [row.text for row in shard], truncate_dim=settings["truncate_dim"],
                    normalize_embeddings=settings["normalize"], chunk=settings["chunk"], **options,
                )  # fmt: skip
                with atomic_write(path) as partial, partial.open("wb") as to:
                    np.savez(to, vectors=vectors, ids=np.array([row.id for row in shard], dtype=np.str_))
            total += len(shard)
            bar.update(len(shard))
    return total


def _write_npy(shards: Sequence[Path], output: Path, precision: Precision, calibration: Any) -> None:
    with atomic_write(output) as partial:
        if precision == "float32":
            merge_rows(shards, "vectors", partial)
            return
        packed = []
        for path in shards:
            with np.load(path) as arrays:
                packed.append(quantize(arrays["vectors"], precision, calibration))
        with partial.open("wb") as file:
            np.save(file, np.concatenate(packed))


def _write_parquet(shards: Sequence[Path], output: Path, precision: Precision, calibration: Any) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"Parquet needs pyarrow: {install_command('corpus')}.") from None
    with atomic_write(output) as partial:
        writer = None
        for path in shards:
            with np.load(path) as arrays:
                ids, vectors = arrays["ids"].tolist(), quantize(arrays["vectors"], precision, calibration)
            flat = pyarrow.array(vectors.reshape(-1))
            column = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            table = pyarrow.table({"id": ids, "vector": column})
            writer = writer or parquet.ParquetWriter(partial, table.schema)
            writer.write_table(table)
        assert writer is not None, "there is a shard"
        writer.close()
