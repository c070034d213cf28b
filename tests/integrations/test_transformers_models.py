"""`accelerate` on models of transformers: equal outputs on real tokens, or the outputs of the original code."""

import copy
import logging
import pickle
import threading

import pytest
import torch
import transformers

import modernbert
from integrations_models import batch, make, make_tokenizer, relative
from modernbert.errors import BackendError, ConfigError
from modernbert.integrations import acceleration_of
from modernbert.integrations.backbone import Backbone

KINDS = [
    "ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification",
    "ModernBertForTokenClassification", "ModernBertForQuestionAnswering", "ModernBertForMultipleChoice",
]  # fmt: skip


@pytest.fixture
def counted(monkeypatch):
    """The number of passes of the packed encoder."""
    calls = []
    encode = Backbone.encode
    monkeypatch.setattr(Backbone, "encode", lambda self, rows: calls.append(rows) or encode(self, rows))
    return calls


def inputs_of(kind, side="right", **kwargs):
    given = batch(side=side, **kwargs)
    return {name: x[None] for name, x in given.items()} if kind == "ModernBertForMultipleChoice" else given


def compare(kind, model, reference, given, tolerance=1e-5):
    with torch.inference_mode():
        found, expected = model(**given), reference(**given)
    assert type(found) is type(expected)
    assert found.keys() == expected.keys()
    real = given["attention_mask"].bool()
    for name, value in expected.items():
        pick = real if value.shape[: real.dim()] == real.shape and kind != "ModernBertForMultipleChoice" else ...
        assert relative(found[name][pick], value[pick]) < tolerance, name


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_on_real_tokens_are_those_of_the_original(kind, pooling, side, counted):
    model = make(kind, classifier_pooling=pooling)
    reference = copy.deepcopy(model)
    assert modernbert.accelerate(model, precision="float32") is model
    assert acceleration_of(model).error < 1e-5
    counted.clear()
    compare(kind, model, reference, inputs_of(kind, side))
    # transformers reads the first slot even if it is padding, so the original code runs
    quirk = kind == "ModernBertForSequenceClassification" and pooling == "cls" and side == "left"
    assert len(counted) == (0 if quirk else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_tuples_and_positional_arguments_are_accepted(kind):
    model = make(kind)
    reference = copy.deepcopy(model)
    modernbert.accelerate(model, precision="float32")
    given = inputs_of(kind)
    with torch.inference_mode():
        found = model(given["input_ids"], given["attention_mask"], return_dict=False)
        expected = reference(given["input_ids"], given["attention_mask"], return_dict=False)
    assert isinstance(found, tuple)
    assert [x.shape for x in found] == [x.shape for x in expected]


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 5e-2), ("int8", 1e-1)])
def test_lower_precisions_are_close_and_outputs_keep_the_dtype(precision, tolerance):
    model = make("ModernBertForMaskedLM")
    reference = copy.deepcopy(model)
    modernbert.accelerate(model, precision=precision, tolerance=0.2)
    given = batch()
    compare("ModernBertForMaskedLM", model, reference, given, tolerance)
    with torch.inference_mode():
        assert model(**given).logits.dtype == torch.float32


def test_restore_leaves_the_object_as_it_was():
    model = make("ModernBertForTokenClassification")
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modernbert.accelerate(model)
    assert acceleration_of(model) is not None
    assert model.state_dict().keys() == weights.keys()
    assert modernbert.restore(model) is model
    assert acceleration_of(model) is None
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    modernbert.restore(model)


def test_a_saved_folder_is_the_same(tmp_path):
    model = make("ModernBertForMaskedLM")
    model.save_pretrained(tmp_path / "before")
    modernbert.accelerate(model, precision="int8", tolerance=1)
    model.save_pretrained(tmp_path / "after")
    names = sorted(path.name for path in (tmp_path / "before").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "after").iterdir())
    for name in names:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes(), name


def test_above_the_tolerance_it_refuses_with_the_figure_and_changes_nothing():
    model = make()
    before = dict(vars(model))
    with pytest.raises(BackendError, match=r"differs from the original by \d\.\de-\d\d.*tolerance is 1\.0e-09"):
        modernbert.accelerate(model, precision="int8", tolerance=1e-9)
    assert dict(vars(model)) == before
    modernbert.accelerate(model, precision="float32")
    with pytest.raises(BackendError):
        modernbert.accelerate(model, precision="int8", tolerance=1e-9)
    assert acceleration_of(model).precision == "float32"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"hidden_activation": "relu"}, "hidden_activation"),
        ({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}, "rope_type"),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused_by_its_key(changes, key):
    with pytest.raises(ConfigError, match=key):
        modernbert.accelerate(make(**changes))


def test_other_models_are_refused_with_the_supported_ones():
    with pytest.raises(ConfigError, match=r"A Linear cannot be accelerated\. Supported are"):
        modernbert.accelerate(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="A str cannot be accelerated"):
        modernbert.accelerate("model")
    with pytest.raises(ConfigError, match="no precision 'int4'"):
        modernbert.accelerate(make(), precision="int4")


def test_biases_run_packed_in_torch_and_refuse_int8():
    model = make(norm_bias=True, attention_bias=True, mlp_bias=True)
    reference = copy.deepcopy(model)
    modernbert.accelerate(model, precision="float32")
    assert acceleration_of(model).engine == "PyTorch, packed"
    compare("ModernBertModel", model, reference, batch())
    with pytest.raises(BackendError, match="int8 needs the native kernels, but the kernels do not support biases"):
        modernbert.accelerate(model, precision="int8")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model, given: given | {"output_hidden_states": True}, "output_hidden_states"),
        (lambda model, given: given | {"labels": given["input_ids"]}, "labels"),
        (lambda model, given: given | {"position_ids": torch.arange(40)[None]}, "position_ids"),
        (lambda model, given: given | {"attention_mask": given["attention_mask"].index_fill(1, torch.tensor([3]), 0),
                                       "input_ids": given["input_ids"].index_fill(1, torch.tensor([3]), 0)}, "holes"),
        (lambda model, given: given | {"input_ids": given["input_ids"] + 5}, "some masked ids are not padding"),
        (lambda model, given: {"inputs_embeds": model.get_input_embeddings()(given["input_ids"]),
                               "attention_mask": given["attention_mask"]}, "inputs_embeds"),
    ],
)  # fmt: skip
def test_unsupported_calls_use_the_original_and_log_it_once(change, reason, counted, caplog):
    model = make("ModernBertForMaskedLM")
    reference = copy.deepcopy(model)
    modernbert.accelerate(model, precision="float32")
    counted.clear()
    given = change(model, batch((40, 7, 23)))
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        found = model(**given)
        model(**given)
        expected = reference(**given)
    assert not counted
    assert torch.equal(found.logits, expected.logits)
    assert len(found.hidden_states or ()) == len(expected.hidden_states or ())
    assert sum(reason in record.getMessage() for record in caplog.records) == 1
    with torch.inference_mode():
        model(**batch())
    assert len(counted) == 1  # inactive hooks of transformers do not count


def test_training_learns_as_before_and_what_was_learned_is_packed(caplog):
    model = make("ModernBertForMaskedLM")
    reference = copy.deepcopy(model)
    modernbert.accelerate(model, precision="float32")
    given = batch()
    for each in (model, reference):
        each.train()
        optimizer = torch.optim.AdamW(each.parameters(), lr=1e-2)
        for _ in range(2):
            each(**given, labels=given["input_ids"]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        each.eval()
    assert sum("training mode" in record.getMessage() for record in caplog.records) == 1
    assert torch.equal(model.decoder.bias, reference.decoder.bias)
    compare("ModernBertForMaskedLM", model, reference, given)


@pytest.mark.parametrize(
    "change",
    [
        lambda model, other: model.load_state_dict(other.state_dict()),
        lambda model, other: [a.data.copy_(b) for a, b in zip(model.parameters(), other.parameters(), strict=True)],
        lambda model, other: [setattr(a, "data", b.data) for a, b in
                              zip(model.parameters(), other.parameters(), strict=True)],
        lambda model, other: setattr(model, "layers", other.layers),
        lambda model, other: [setattr(a.attn.Wqkv, "weight", b.attn.Wqkv.weight) for a, b in
                              zip(model.layers, other.layers, strict=True)],
    ],
    ids=["load_state_dict", "data.copy_", "data", "modules", "parameters"],
)  # fmt: skip
def test_weights_that_change_are_never_ignored(change):
    model, other = make(), make(seed=5)
    modernbert.accelerate(model, precision="float32")
    given = batch()
    with torch.inference_mode():
        model(**given)
    change(model, other)
    compare("ModernBertModel", model, modernbert.restore(copy.deepcopy(model)), given)


def test_hooks_are_called():
    model = make()
    modernbert.accelerate(model)
    seen = []
    handle = model.layers[1].register_forward_hook(lambda *args: seen.append(1))
    with torch.inference_mode():
        model(**batch())
        assert seen
        handle.remove()
        model(**batch())
    assert len(seen) == 1


def test_gradients_are_those_of_the_original():
    model = make("ModernBertForSequenceClassification")
    modernbert.accelerate(model)
    model(**batch()).logits.sum().backward()
    assert model.model.layers[0].mlp.Wi.weight.grad is not None


def test_copies_and_pickles_are_accelerated_by_themselves(counted):
    model = make("ModernBertForSequenceClassification")
    modernbert.accelerate(model, precision="float32")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            twin.classifier.weight.add_(1)
            twin.model.layers[0].attn.Wqkv.weight.mul_(0.5)
        counted.clear()
        compare("ModernBertForSequenceClassification", twin, modernbert.restore(copy.deepcopy(twin)), batch())
        assert len(counted) == 1
    compare("ModernBertForSequenceClassification", model, modernbert.restore(copy.deepcopy(model)), batch())


def test_threads_share_one_model():
    model = make("ModernBertForSequenceClassification")
    modernbert.accelerate(model)
    batches = [batch(seed=seed) for seed in range(6)]
    with torch.inference_mode():
        expected = [model(**given).logits for given in batches]
    found = [None] * 6

    def run(index):
        with torch.inference_mode():
            for _ in range(5):
                found[index] = model(**batches[index]).logits

    threads = [threading.Thread(target=run, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_large_batch_is_computed_in_parts(monkeypatch):
    from modernbert.integrations import backbone

    model = make("ModernBertForTokenClassification")
    reference = copy.deepcopy(model)
    modernbert.accelerate(model, precision="float32")
    monkeypatch.setattr(backbone, "default_tokens_at_once", lambda device: 45)
    compare("ModernBertForTokenClassification", model, reference, batch((40, 7, 23, 1, 12, 44)))


def test_a_model_that_moves_to_another_dtype_is_packed_again():
    model = make()
    modernbert.accelerate(model, precision="float32")
    model.bfloat16()
    with torch.inference_mode():
        found = model(**batch()).last_hidden_state
        expected = modernbert.restore(model)(**batch()).last_hidden_state
    assert found.dtype == torch.bfloat16
    real = batch()["attention_mask"].bool()
    assert relative(found[real], expected[real]) < 5e-2


def test_the_signature_of_forward_stays():
    import inspect

    model = make("ModernBertForMaskedLM")
    expected = inspect.signature(model.forward)
    modernbert.accelerate(model)
    assert inspect.signature(model.forward) == expected


def test_an_adapter_makes_the_original_compute(caplog):
    model = make()
    modernbert.accelerate(model)

    class Adapted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * 0

    old = model.layers[0].mlp.Wo
    model.layers[0].mlp.Wo = Adapted(old.in_features, old.out_features, bias=False)
    with torch.inference_mode():
        found = model(**batch()).last_hidden_state
        expected = modernbert.restore(copy.deepcopy(model))(**batch()).last_hidden_state
    assert torch.equal(found, expected)
    assert "merge adapters first" in caplog.text


def flat(answer):
    """The words and numbers in the output of a pipeline."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    return [each for part in answer for each in flat(part)] if isinstance(answer, list) else [answer]


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("fill-mask", "ModernBertForMaskedLM"),
        ("text-classification", "ModernBertForSequenceClassification"),
        ("token-classification", "ModernBertForTokenClassification"),
        ("feature-extraction", "ModernBertModel"),
    ],
)
def test_pipelines_of_transformers_accept_it(task, kind, counted):
    pipe = transformers.pipeline(task, model=make(kind), tokenizer=make_tokenizer(), device="cpu")
    texts = ["w7 [MASK] w9 w4 w5", "w100 w200 w201 w202 [MASK]", "w8 [MASK]"][
        : 2 if task == "feature-extraction" else 3
    ]
    expected = flat(pipe(texts, batch_size=len(texts)))
    assert modernbert.accelerate(pipe, precision="float32") is pipe
    counted.clear()
    found = flat(pipe(texts, batch_size=len(texts)))
    assert counted
    for each, wanted in zip(found, expected, strict=True):
        assert each == (wanted if isinstance(wanted, str) else pytest.approx(wanted, rel=1e-3, abs=1e-4))
