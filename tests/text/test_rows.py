import json

import numpy as np
import pytest

from modernbert.errors import DataError
from modernbert.text.rows import write_rows

ROWS = [{"text": "café", "label": "good", "score": 0.5}, {"text": "b", "label": "bad", "score": None}]


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_iterator_of_mappings_is_written_unchanged(tmp_path):
    path = write_rows(iter(ROWS), tmp_path, "train")
    assert read(path) == ROWS


def test_equal_rows_have_the_same_file_and_other_rows_another_one(tmp_path):
    first = write_rows(ROWS, tmp_path, "train")
    assert write_rows(list(ROWS), tmp_path, "train") == first
    assert write_rows(ROWS[:1], tmp_path, "train") != first
    assert read(first) == ROWS
    assert len(list(tmp_path.iterdir())) == 2


def test_numpy_numbers_and_missing_values_are_written_as_json(tmp_path):
    path = write_rows([{"a": np.float32(0.25), "b": np.arange(3), "c": float("nan"), "d": (1, 2)}], tmp_path, "train")
    assert read(path) == [{"a": 0.25, "b": [0, 1, 2], "c": None, "d": [1, 2]}]


def test_a_data_frame_of_pandas_is_read(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas comes with the package datasets")
    assert read(write_rows(pandas.DataFrame(ROWS), tmp_path, "train")) == ROWS


def test_class_numbers_of_a_data_set_become_names(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the package datasets is an extra")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )  # fmt: skip
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    assert read(write_rows(rows, tmp_path, "train")) == [{"text": "x", "label": "good"}, {"text": "y", "label": "bad"}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no row"),
        ("a text", "Rows are a str"),
        ({"text": "x"}, "Rows are a dict"),
        (3, "Rows are a int"),
        ([("a", "b")], "Row 1 is a tuple"),
        ([{"a": 1}, {1: 2}], "Row 2 is a dict"),
        ([{"a": object()}], "Row 1: a is <object"),
        ([{"a": float("inf")}], "Row 1: a is inf"),
    ],
)
def test_invalid_rows_are_an_error_and_leave_no_file(rows, message, tmp_path):
    with pytest.raises(DataError, match=message):
        write_rows(rows, tmp_path / "data", "train")
    assert not list(tmp_path.rglob("*.jsonl"))
