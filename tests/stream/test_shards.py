import numpy as np
import pytest

from corpora import write_shard
from modernbert.errors import DataError
from modernbert.stream import shards
from modernbert.stream.manifest import Manifest
from modernbert.stream.packing import Packer
from modernbert.stream.shards import Documents, Shards
from modernbert.text.tokenizer import Vocabulary

DOCUMENTS = [[1, 2, 3], [4], [5, 6]]


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_documents_are_in_the_order_of_files(tmp_path, dtype):
    write_shard(tmp_path / "b.ds", [[7, 8]], dtype)
    write_shard(tmp_path / "a.ds", DOCUMENTS, dtype)
    shards = Shards.open(tmp_path)
    assert [shards.document(i).tolist() for i in range(4)] == [*DOCUMENTS, [7, 8]]
    assert shards.lengths.tolist() == [3, 1, 2, 2]
    assert (shards.num_documents, shards.num_tokens) == (4, 8)
    assert shards.slice(0, 1, 2).tolist() == [2]
    assert shards.slice(2, 1, 99).tolist() == [6]


def test_a_document_is_a_view_of_the_mapped_file(tmp_path):
    write_shard(tmp_path / "a.ds", DOCUMENTS)
    document = Shards.open(tmp_path).document(2)
    assert isinstance(document, np.memmap)
    assert not document.flags.owndata


def test_the_metadata_sets_the_bytes_of_an_id(tmp_path):
    write_shard(tmp_path / "a.ds", [[1, 0, 2, 0]], "<u2")
    np.array([2], dtype="<u8").tofile(tmp_path / "a.ds.index")
    (tmp_path / "a.ds.metadata").write_text("tokenizer.json|4\n2\n2 T")
    assert Shards.open(tmp_path).document(0).tolist() == [1, 2]


def manifest(**changes):
    values = {
        "source": "a", "documents": 3, "tokens": 6, "bytes": 20, "token_bytes": 2, "vocab_size": 64, "tokenizer": "tok",
        "tokenizer_sha256": "abc", "fingerprint": "f", "skipped": {}, "files": (),
    }  # fmt: skip
    return Manifest(**(values | changes))


def break_index(folder):
    (folder / "a.ds.index").unlink()


def break_index_size(folder):
    with (folder / "a.ds.index").open("ab") as file:
        file.write(b"abc")


def break_index_order(folder):
    np.array([3, 2, 6], dtype="<u8").tofile(folder / "a.ds.index")


def empty_index(folder):
    (folder / "a.ds.index").write_bytes(b"")


def break_size(folder):
    with (folder / "a.ds").open("ab") as file:
        file.write(b"\0\0\0")


def break_count(folder):
    manifest(tokens=7).write(folder)


def break_manifest(folder):
    (folder / "manifest.json").write_text("{")


def remove_ids(folder):
    (folder / "a.ds").unlink()


def remove_all(folder):
    remove_ids(folder)
    break_index(folder)


def move_deeper(folder):
    (folder / "inner").mkdir()
    for name in ("a.ds", "a.ds.index"):
        (folder / name).rename(folder / "inner" / name)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (break_index, r"has no a\.ds\.index"),
        (break_index_size, "is truncated"),
        (break_index_order, r"a\.ds\.index decrease"),
        (empty_index, "12 bytes but its index says 0 tokens"),
        (break_size, "15 bytes but its index says 6 tokens"),
        (break_count, "its manifest says 3 and 7"),
        (break_manifest, "is damaged"),
        (remove_ids, r"a\.ds\.index has no a\.ds"),
        (remove_all, "holds no document.*`modernbert corpus`"),
        (move_deeper, "holds no document.*give .*inner"),
    ],
)
def test_a_damaged_folder_is_an_error(tmp_path, harm, message):
    write_shard(tmp_path / "a.ds", DOCUMENTS)
    harm(tmp_path)
    with pytest.raises(DataError, match=message):
        _ = Shards.open(tmp_path).lengths


def test_an_empty_shard_among_others_has_no_documents(tmp_path):
    write_shard(tmp_path / "a.ds", DOCUMENTS)
    (tmp_path / "b.ds").touch()
    (tmp_path / "b.ds.index").touch()
    write_shard(tmp_path / "c.ds", [[9]])
    shards = Shards.open(tmp_path)
    assert [shards.document(i).tolist() for i in range(4)] == [*DOCUMENTS, [9]]


@pytest.mark.parametrize("metadata", [b"\xff\xfe|4\n", b"tokenizer", b""])
def test_file_sizes_give_the_bytes_of_an_id_without_metadata(tmp_path, metadata):
    write_shard(tmp_path / "a.ds", DOCUMENTS, "<u4")
    (tmp_path / "a.ds.metadata").write_bytes(metadata)
    assert Shards.open(tmp_path).document(0).tolist() == [1, 2, 3]


def vocabulary(size):
    return Vocabulary(size, 0, 63, 0, 0, np.zeros(size, dtype=np.bool_), np.ones(size, dtype=np.int32))


def test_shards_of_another_tokenizer_are_refused(tmp_path):
    write_shard(tmp_path / "a.ds", DOCUMENTS)
    with pytest.raises(DataError, match="holds the id 6, outside the vocabulary of 5"):
        Shards.open(tmp_path).check_vocabulary(vocabulary(5), "abc")
    manifest().write(tmp_path)
    Shards.open(tmp_path).check_vocabulary(vocabulary(64), "abc")
    with pytest.raises(DataError, match="tokenised with another tokenizer"):
        Shards.open(tmp_path).check_vocabulary(vocabulary(64), "other")


@pytest.mark.parametrize("documents", [[[0, 1, 63], [], [0, 2, 63]], [[0, 1], [0, 2]], [[1, 63], [2, 63]]])
def test_documents_with_special_tokens_are_refused(tmp_path, documents):
    write_shard(tmp_path / "a.ds", documents)
    with pytest.raises(DataError, match=r"already begin with \[CLS\] or end with \[SEP\]"):
        Shards.open(tmp_path).check_vocabulary(vocabulary(64), "abc")


def test_a_single_document_that_begins_with_the_cls_id_is_accepted(tmp_path):
    write_shard(tmp_path / "a.ds", [[0, 1], [2, 63], [3]])
    Shards.open(tmp_path).check_vocabulary(vocabulary(64), "abc")


def test_held_out_documents_are_deterministic_and_the_split_is_complete(tmp_path):
    write_shard(tmp_path / "a.ds", [[i] for i in range(100)])
    first, second = (Shards.open(tmp_path).split(0.07) for _ in range(2))
    assert len(first.validation.indices) == 7
    assert np.array_equal(first.validation.indices, second.validation.indices)
    assert sorted([*first.validation.indices, *first.train.indices]) == list(range(100))


def test_one_document_cannot_be_held_out(tmp_path):
    write_shard(tmp_path / "a.ds", [[1]])
    with pytest.raises(DataError, match="at least two are needed"):
        Shards.open(tmp_path).split(0.1)


def test_datatrove_reads_the_same_documents(tmp_path):
    """A shard that datatrove wrote on a cluster, without a manifest."""
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile

    file = TokenizedFile(str(tmp_path), "c.ds", tokenizer_name_or_path="gpt2", save_final_metadata=True, token_size=4)
    for document in ([70_000, 5], [6]):
        file.write(document, None)
    file.close()
    shards = Shards.open(tmp_path)
    assert [shards.document(i).tolist() for i in range(2)] == [[70_000, 5], [6]]


def test_documents_can_be_selected_by_length(tmp_path):
    write_shard(tmp_path / "a.ds", DOCUMENTS)
    documents = Documents.all_of(Shards.open(tmp_path))
    assert documents.between(2, None).indices.tolist() == [0, 2]
    assert documents.between(2, 2).indices.tolist() == [2]
    assert documents.between(0, None) is documents


def test_a_missing_shard_of_the_manifest_is_an_error(tmp_path):
    write_shard(tmp_path / "a.ds", DOCUMENTS)
    manifest(
        files=({"name": "a.ds", "documents": 3, "tokens": 6}, {"name": "b.ds", "documents": 1, "tokens": 1})
    ).write(tmp_path)
    with pytest.raises(DataError, match=r"b\.ds is missing"):
        Shards.open(tmp_path)


def test_a_shard_that_changes_after_opening_is_an_error(tmp_path):
    write_shard(tmp_path / "a.ds", DOCUMENTS)
    write_shard(tmp_path / "b.ds", DOCUMENTS)
    shards = Shards.open(tmp_path)
    shards.check_present()
    (tmp_path / "b.ds").write_bytes(b"\0\0")
    with pytest.raises(DataError, match=r"b\.ds has now 2 bytes instead of 12"):
        shards.check_present()
    (tmp_path / "b.ds").unlink()
    with pytest.raises(DataError, match=r"b\.ds is missing"):
        shards.check_present()


def test_document_indices_have_four_bytes_and_the_same_order_as_eight(tmp_path):
    """A run keeps the indices in memory; their dtype must not change the stream."""
    write_shard(tmp_path / "a.ds", [[i] * (1 + i % 7) for i in range(500)])
    split = Shards.open(tmp_path).split(0.1)
    assert split.train.shards.lengths.dtype == split.train.indices.dtype == np.int32
    order = np.random.Generator(np.random.PCG64DXSM(shards._SPLIT_SEED)).permutation(500)
    assert split.train.indices.tolist() == sorted(order[50:].tolist())
    wide = Documents(split.train.shards, split.train.indices.astype(np.int64))
    narrow_packer, wide_packer = (Packer(documents, 64, seed=3) for documents in (split.train, wide))
    assert [narrow_packer.next_packed_sequence() for _ in range(80)] == [
        wide_packer.next_packed_sequence() for _ in range(80)
    ]


def test_large_lengths_have_eight_bytes():
    assert shards._dtype_for(2**31 - 1) is np.int32
    assert shards._dtype_for(2**31) is np.int64


def test_a_shard_that_is_truncated_while_mapped_is_an_error(tmp_path):
    """Reading after the end of the file would kill the process."""
    for name in ("a.ds", "a.ds.index"):
        folder = tmp_path / name
        write_shard(folder / "a.ds", [[1] * 5000] * 2000)
        found = Shards.open(folder)
        assert len(found.document(1999)) == 5000
        with (folder / name).open("r+b") as file:
            file.truncate(4096)
        with pytest.raises(DataError, match=f"{name} has now 4,096 bytes instead of .*; put it back"):
            found.document(1999)
    with pytest.raises(DataError, match=r"a\.ds\.index has now 4,096 bytes"):
        _ = found.lengths


def test_an_id_outside_the_vocabulary_is_an_error_in_any_document(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_SAMPLE_DOCUMENTS", 2)
    write_shard(tmp_path / "a.ds", [[1], [2], [], [70, 3]])
    found = Shards.open(tmp_path)
    found.check_vocabulary(vocabulary_of(64), "")
    assert found.document(2).tolist() == []
    assert found.slice(3, 1, None).tolist() == [3]
    with pytest.raises(DataError, match="holds the id 70 in document 3, outside the vocabulary of 64"):
        found.document(3)


def vocabulary_of(size):
    special = np.zeros(size, dtype=np.bool_)
    return Vocabulary(size, 0, 0, 0, 0, special, special.astype(np.int32))


def test_a_fingerprint_detects_changed_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_BLOCK", 64)
    monkeypatch.setattr(shards, "_BLOCKS", 5)
    documents = [[number % 60] * 7 for number in range(400)]
    write_shard(tmp_path / "a.ds", documents)
    before = Shards.open(tmp_path).fingerprint()
    assert Shards.open(tmp_path).fingerprint() == before
    changes = {
        "another order": documents[::-1],
        "other lengths": [documents[0][:6], [documents[0][0], *documents[1]], *documents[2:]],
        "the first id": [[59, *documents[0][1:]], *documents[1:]],
        "the last id": [*documents[:-1], [*documents[-1][:-1], 59]],
    }
    for name, changed in changes.items():
        write_shard(tmp_path / "a.ds", changed)
        assert Shards.open(tmp_path).fingerprint() != before, name


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 320, 321, 100_000])
def test_the_blocks_of_a_fingerprint_are_inside_the_file(size, monkeypatch):
    monkeypatch.setattr(shards, "_BLOCK", 64)
    monkeypatch.setattr(shards, "_BLOCKS", 5)
    places = shards._block_offsets(size)
    assert len(places) == min(5, -(-size // 64))
    assert all(0 <= place < size for place in places)
    if size:
        assert places[0] == 0
        assert places[-1] + 64 >= size
