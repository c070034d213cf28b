import pytest
import torch

from corpora import make_model
from labelled import recipe, sentences, write_csv
from modernbert.train.finetune import finetune


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One thread, as runs are compared exactly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny masked language model, to start from."""
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def csvs(tmp_path_factory):
    """Labelled texts to train with, and others to test with."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "train": str(write_csv(folder / "train.csv", sentences(200, 1))),
        "test": str(write_csv(folder / "test.csv", sentences(60, 2))),
    }


@pytest.fixture(scope="module")
def classified(model, csvs, tmp_path_factory):
    """A run that has learned its labels."""
    output = tmp_path_factory.mktemp("out") / "run"
    return finetune(recipe(model, output, data=csvs, seeds=[3], training={"epochs": 12}))
