"""Random folders, shards, recipes, files and texts give a finite result or a one-sentence error, without a hang."""

import contextlib
import json
import shutil
import tomllib

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from corpora import make_model, write_shard
from modernbert import Classifier, FillMask
from modernbert.config import dump, load, parse
from modernbert.corpus.recipe import CorpusRecipe
from modernbert.errors import ModernBertError
from modernbert.kernels import Rope, native, varlen_attention
from modernbert.kernels.cross_entropy import linear_cross_entropy
from modernbert.kernels.elementwise import add_norm
from modernbert.model import MaskedLM, SequenceClassifier
from modernbert.model.research import import_research_checkpoint
from modernbert.packed import Sequences
from modernbert.run_metrics import Metrics
from modernbert.stream.shards import Shards
from modernbert.text.records import Record, Source, read_records
from modernbert.text.tokenizer import Vocabulary, load_tokenizer
from modernbert.train.finetune_recipe import FinetuneRecipe
from modernbert.train.recipe import PretrainRecipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = 10  # that one example may take on a busy machine; a hang takes longer


def fuzzed(examples):
    """The same examples in every run, so that a failure can be reproduced."""
    return settings(
        max_examples=examples,
        deadline=1000 * SECONDS,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextlib.contextmanager
def one_sentence():
    """A mistake of the user is a one-sentence error; every other exception is a bug."""
    try:
        yield
    except ModernBertError as error:
        message = str(error)
    else:
        return
    assert message.strip()
    assert "\n" not in message
    assert len(message) < 20_000


numbers = st.one_of(
    st.integers(-5, 200), st.integers(), st.sampled_from([10**9, 2**31, 2**63, 2**64]), st.floats(), st.booleans()
)
words = st.one_of(st.text(max_size=8), st.sampled_from(["", ".", "..", "/", "full_attention", "gelu", "\x00", "nan"]))
anything = st.recursive(
    st.one_of(st.none(), numbers, words),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("fuzz"), num_hidden_layers=2)


@pytest.fixture
def copy(folder, tmp_path):
    def made():
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "copy")
        return tmp_path / "copy"

    return made


def computes(model):
    tokens = torch.arange(12)
    with torch.no_grad():
        found = model(tokens, Sequences.from_lengths([5, 7]))
    assert found.isfinite().all()


KEYS = ["num_labels", "sliding_window", "head_dim", "partial_rotary_factor", "quantization_config", "id2label"]


@fuzzed(1000)
@given(data=st.data())
def test_any_config_json(data, copy):
    changed = copy()
    values = json.loads((changed / "config.json").read_text())
    keys = st.sampled_from([*values, *values["rope_parameters"], *KEYS])
    values |= data.draw(st.dictionaries(keys, anything, min_size=1, max_size=2))
    with contextlib.suppress(UnicodeEncodeError):
        (changed / "config.json").write_text(json.dumps(values))
    with one_sentence():
        computes(MaskedLM.from_pretrained(changed))
    with one_sentence():
        SequenceClassifier.from_pretrained(changed)


DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64, torch.float8_e5m2]
specials = st.sampled_from([0.0, 1e30, 3e38, float("nan"), float("inf"), -1e-40])


@fuzzed(600)
@given(data=st.data())
def test_any_weights(data, copy):
    changed = copy()
    path = changed / "model.safetensors"
    tensors = load_file(path)
    name = data.draw(st.sampled_from(sorted(tensors)))
    kind = data.draw(st.sampled_from(["dtype", "value", "shape", "gone", "more", "cut", "bytes", "index"]))
    if kind == "dtype":
        tensors[name] = tensors[name].to(data.draw(st.sampled_from(DTYPES)))
    elif kind == "value":
        tensors[name].view(-1)[data.draw(st.integers(0, 20))] = data.draw(specials)
    elif kind == "shape":
        tensors[name] = torch.zeros(data.draw(st.lists(st.integers(0, 3), max_size=4)))
    elif kind == "gone":
        del tensors[name]
    elif kind == "more":
        tensors[data.draw(st.text(max_size=9)) or "x"] = torch.zeros(1)
    if kind in ("cut", "bytes"):
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, min(len(content) - 1, 4000)))
        content[place : place + 3] = data.draw(st.binary(min_size=3, max_size=3))
        path.write_bytes(content[:place] if kind == "cut" else content)
    elif kind == "index":
        text = data.draw(anything.map(lambda value: json.dumps({"weight_map": value})) | st.text(max_size=20))
        (changed / "model.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    else:
        with contextlib.suppress(UnicodeEncodeError):
            save_file(tensors, path)
    with one_sentence():
        MaskedLM.from_pretrained(changed)


@fuzzed(300)
@given(data=st.data())
def test_any_tokenizer_files(data, copy):
    changed = copy()
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]))
    values = json.loads((changed / name).read_text())
    values |= data.draw(st.dictionaries(st.sampled_from(sorted(values)), anything, min_size=1, max_size=2))
    (changed / name).write_text(json.dumps(values))
    with one_sentence():
        Vocabulary.of(load_tokenizer(changed))


@fuzzed(700)
@given(data=st.data())
def test_any_shards(data, tmp_path):
    shutil.rmtree(tmp_path / "shards", ignore_errors=True)
    documents = data.draw(st.lists(st.lists(st.integers(0, 70), max_size=6), min_size=1, max_size=6))
    write_shard(tmp_path / "shards" / "a.ds", documents)
    name = data.draw(st.sampled_from(["a.ds", "a.ds.index", "a.ds.metadata", "manifest.json", "b.ds", "b.ds.index"]))
    if data.draw(st.booleans()):
        (tmp_path / "shards" / name).write_bytes(data.draw(st.binary(max_size=48)))
    special = np.zeros(64, dtype=np.bool_)
    vocabulary = Vocabulary(64, 1, 2, 3, 4, special, special.astype(np.int32))
    with one_sentence():
        shards = Shards.open(tmp_path / "shards")
        shards.check_vocabulary(vocabulary, "hash")
        split = shards.split(0.2)
        for part in (split.train, split.validation):
            assert len(part.lengths) == len(part.indices)
            for index in part.indices.tolist():
                assert shards.document(index).max(initial=0) < 64
        assert shards.fingerprint() == Shards.open(tmp_path / "shards").fingerprint()


PRETRAIN = {
    "tokenizer": "t",
    "data": {"a": "shards/a"},
    "run": {"directory": "run"},
    "phases": {"one": {"tokens": 1000, "max_length": 64, "mixture": {"a": 1.0}, "batch_tokens": 512}},
}
RECIPES = [
    (PretrainRecipe, PRETRAIN),
    (CorpusRecipe, {"tokenizer": "t", "output": "out", "sources": [{"name": "a", "paths": ["a.txt"]}]}),
    (FinetuneRecipe, {"task": "classify", "model": "m", "data": {"train": "a.csv"}, "output": "out"}),
]
PLACES = [
    *("run.directory", "phases.one.tokens", "phases.one.schedule.peak_lr", "phases.one.batch_tokens.start", "seed"),
    *(
        "data.a.path",
        "data.a",
        "data",
        "phases",
        "phases.one.mixture",
        "sources",
        "output",
        "workers",
        "training.epochs",
    ),
    *(
        "training.learning_rate",
        "data.train",
        "data.label",
        "model",
        "tokenizer",
        "seeds",
        "max_length",
        "search.trials",
    ),
]


@fuzzed(1000)
@given(data=st.data())
def test_any_recipe(data):
    kind, values = data.draw(st.sampled_from(RECIPES))
    place, value = data.draw(st.sampled_from(PLACES)), data.draw(anything)
    inner = value
    for part in reversed(place.split(".")):
        inner = {part: inner}
    [(first, inner)] = inner.items()
    text = data.draw(
        st.one_of(st.just(json.dumps(value)), words, st.sampled_from(["inf", "nan", "1e308", "[1, 2", "{"]))
    )
    with one_sentence():
        parse(kind, values | {first: inner}, "recipe")
    with one_sentence():
        recipe = parse(kind, values, "recipe", [f"{place}={text}"])
        with contextlib.suppress(UnicodeEncodeError):
            assert parse(kind, tomllib.loads(dump(recipe)), "dumped") == recipe


@fuzzed(300)
@given(
    content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
)
def test_any_recipe_file(content, tmp_path):
    (tmp_path / "recipe.toml").write_bytes(content)
    for kind, _ in RECIPES:
        with one_sentence():
            load(kind, tmp_path / "recipe.toml")


@fuzzed(700)
@given(data=st.data())
def test_any_labelled_file(data, tmp_path):
    name = data.draw(st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.conll", "a.csv.gz"]))
    pieces = st.sampled_from(
        [
            "text,label\n",
            "a,b\n",
            '"',
            '{"text": "a"}\n',
            "[",
            "]",
            "{",
            "\t",
            "\r",
            "\n",
            "\x00",
            "\ufeff",
            "O\n",
            "é",
            ",",
            "NaN",
        ]
    )
    content = data.draw(
        st.one_of(st.binary(max_size=60), st.lists(pieces, max_size=12).map(lambda found: "".join(found).encode()))
    )
    (tmp_path / name).write_bytes(content)
    with one_sentence():
        for record in read_records(Source(path=str(tmp_path / name))):
            assert isinstance(record, Record) or record.reason


@pytest.fixture(scope="module")
def predictors(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "model"
    model = SequenceClassifier.from_pretrained(folder, changes={"id2label": {0: "a", 1: "b"}})
    model.save_pretrained(path)
    return FillMask.from_pretrained(folder, device="cpu"), Classifier.from_pretrained(path, device="cpu")


texts = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.text(st.characters(), max_size=8),  # half surrogate pairs too
        st.sampled_from(["[MASK]", "a [MASK]\n", "[CLS][SEP]", "\x00", " ", "👨‍👩‍👧", "x" * 3000]),
    ),
    max_size=3,
)


@fuzzed(400)
@given(texts=texts, top_k=st.sampled_from([-1, 0, 1, 5, 10**6]))
def test_any_text(texts, top_k, predictors):
    fill, classify = predictors
    with one_sentence():
        for masks in fill(texts, top_k):
            assert all(0 <= candidate.probability <= 1 for mask in masks for candidate in mask)
    with one_sentence():
        for labels in classify(texts):
            assert sum(label.score for label in labels) == pytest.approx(1, abs=1e-3)


@fuzzed(200)
@given(content=st.binary(max_size=80), ends=st.binary(max_size=10))
def test_any_checkpoint_and_any_metrics(content, ends, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + content)
    lines = Metrics(tmp_path / "metrics.jsonl").read()
    assert all(isinstance(line["step"], int) for line in lines)
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with one_sentence():
        import_research_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "imported")


shapes = st.one_of(
    st.tuples(st.integers(0, 40), st.just(3), st.integers(1, 3), st.sampled_from([8, 16, 32, 64])),
    st.lists(st.integers(0, 8), max_size=5).map(tuple),
)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64])


@pytest.fixture
def shapes_unchecked():
    """Switch off the shape checks that only test runs make."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@fuzzed(600)
@given(data=st.data())
def test_any_call_of_attention(data, shapes_unchecked):
    """Every backend that runs here gives the result of the reference or a one-sentence error; it never crashes."""
    shape = data.draw(shapes)
    qkv = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(data.draw(dtypes))
    if data.draw(st.booleans()) and qkv.dim() > 1:
        qkv = qkv.transpose(0, 1).contiguous().transpose(0, 1)
    lengths = data.draw(st.lists(st.integers(0, 20), max_size=4)) or [shape[0] if shape else 0]
    if data.draw(st.booleans()) and shape and shape[0]:
        lengths = [shape[0] // 2, 0, shape[0] - shape[0] // 2]
    made = Sequences.from_lengths(lengths)
    parts = {name: getattr(made, name) for name in ("cu_seqlens", "max_length", "positions", "slots", "padded_shape")}
    if data.draw(st.booleans()):
        ends = data.draw(st.lists(st.integers(-2, 50), max_size=4))
        kind = data.draw(st.sampled_from([torch.int32, torch.int64, torch.float32]))
        parts |= data.draw(st.sampled_from([{"cu_seqlens": torch.tensor(ends, dtype=kind)}, {"max_length": 3}]))
    window = data.draw(st.one_of(st.none(), st.integers(0, 80), st.sampled_from([-1, 2**31, 2**63 - 1, 2**80, 1.5])))
    width = data.draw(st.sampled_from([8, 16, 32, 64]))
    rope = data.draw(st.sampled_from([None, Rope.of(torch.arange(data.draw(st.integers(0, 60))), width, 10_000.0)]))
    found = {}
    for backend in ("reference", "blocked", "native"):
        with one_sentence():
            found[backend] = varlen_attention(qkv, Sequences(**parts), window, rope, backend=backend)
    for result in found.values():
        assert result.shape == (shape[0], *shape[2:])
        torch.testing.assert_close(result, found["reference"], atol=0.02, rtol=0.02)


few = st.sampled_from([1, 2, 16, 31, 32, 64])
floats = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])


@fuzzed(300)
@given(data=st.data())
def test_any_call_of_cross_entropy_and_norm(data, shapes_unchecked):
    """Native code and plain PyTorch give the same result or a one-sentence error; they never crash."""
    generator, dtype = torch.Generator().manual_seed(0), data.draw(floats)

    def random_tensor(*shape):
        tensor = torch.randn(shape, generator=generator).to(dtype)
        return tensor.t().contiguous().t() if len(shape) == 2 and data.draw(st.booleans()) else tensor

    vocab, width, number = data.draw(few), data.draw(few), data.draw(st.sampled_from([0, 1, 2, 40]))
    x, y = (
        random_tensor(number, width),
        random_tensor(data.draw(st.sampled_from([number, 2])), data.draw(st.sampled_from([width, 32]))),
    )
    weight, bias = (
        random_tensor(vocab, data.draw(st.sampled_from([width, 32]))),
        data.draw(st.sampled_from([None, vocab, 3])),
    )
    labels = torch.randint(vocab, (data.draw(st.sampled_from([number, 2])),), generator=generator)
    bias = None if bias is None else random_tensor(bias)
    norm = torch.nn.LayerNorm(data.draw(st.sampled_from([width, 32])), bias=False).to(dtype)
    found = {}
    for level in ("off", ""):
        native.select(level)
        try:
            found[level] = []
            with one_sentence(), torch.no_grad():
                found[level].append(linear_cross_entropy(x, weight, bias, labels))
            with one_sentence(), torch.no_grad():
                found[level].append(add_norm(x, y, norm)[1])
        finally:
            native.select("")
    for plain, ours in zip(found["off"], found[""], strict=True):
        assert plain.isfinite().all()
        torch.testing.assert_close(ours, plain, atol=0.05, rtol=0.02, check_dtype=False)
