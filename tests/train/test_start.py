import pytest
import torch
from typer.testing import CliRunner

from corpora import PATHS, make_shards, tiny_recipe
from modernbert.cli import app
from modernbert.config import dump, load, parse
from modernbert.errors import CheckpointError, ConfigError
from modernbert.model import Encoder, MaskedLM
from modernbert.text.documents import read_texts
from modernbert.text.tokenizer import Vocabulary, load_tokenizer
from modernbert.text.tokenizer_training import train_tokenizer
from modernbert.train.pretrain import pretrain
from modernbert.train.recipe import PretrainRecipe
from modernbert.train.start import initial_model, mean_of_tokens, old_tokens

EMBEDDING = "model.embeddings.tok_embeddings.weight"


@pytest.fixture(scope="module")
def old(material, tmp_path_factory):
    """A model folder with the tokenizer of `material`, and with weights that differ from any initialization."""
    tokenizer, shards = material
    recipe = parse(PretrainRecipe, tiny_recipe(tokenizer, shards, tokenizer.parent / "no-run"), "tiny")
    model = initial_model(recipe, Vocabulary.of(load_tokenizer(tokenizer)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    folder = tmp_path_factory.mktemp("old") / "model"
    model.save_pretrained(folder, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A smaller byte-level tokenizer trained on other text, and its shards."""
    folder = tmp_path_factory.mktemp("other")
    tokenizer = folder / "tokenizer"
    train_tokenizer(read_texts(["python:random", "python:statistics"]), tokenizer, vocab_size=640)
    return tokenizer, make_shards(folder / "shards", tokenizer)


def recipe_from(folder, tokenizer, shards, run):
    values = tiny_recipe(tokenizer, shards, run)
    return parse(PretrainRecipe, values | {"model": {"start": str(folder)}}, "tiny")


def test_a_run_starts_from_the_weights_of_the_folder(old, material, tmp_path):
    recipe = recipe_from(old, *material, tmp_path / "run")
    model = initial_model(recipe, Vocabulary.of(load_tokenizer(material[0])))
    wanted = MaskedLM.from_pretrained(old)
    assert model.config.attention_output_dropout == 0.1
    for name, parameter in wanted.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=0)
    assert pretrain(recipe) == tmp_path / "run" / "final"


def test_tokens_of_both_vocabularies_keep_their_embedding_and_others_get_the_mean(old, material, other, tmp_path):
    tokenizer, shards = other
    vocabulary = Vocabulary.of(load_tokenizer(tokenizer))
    model = initial_model(recipe_from(old, tokenizer, shards, tmp_path / "run"), vocabulary)
    before, after = (m.get_parameter(EMBEDDING) for m in (MaskedLM.from_pretrained(old), model))
    assert after.shape[0] == vocabulary.size == 640
    assert model.get_parameter(EMBEDDING) is model.decoder.weight
    known, new = load_tokenizer(material[0]), load_tokenizer(tokenizer)
    shared = known.get_vocab().keys() & new.get_vocab().keys()
    assert {"[MASK]", "[CLS]", "def"} <= shared
    for token in shared:
        torch.testing.assert_close(after[new.token_to_id(token)], before[known.token_to_id(token)], rtol=0, atol=0)
    alone = sorted(new.get_vocab().keys() - shared)
    assert alone
    for token in alone:
        index = new.token_to_id(token)
        text = new.decode([index])
        if not vocabulary.special[index] and "\ufffd" not in text:
            pieces = known.encode(text, add_special_tokens=False).ids
            torch.testing.assert_close(after[index], before[pieces].mean(0))
    torch.testing.assert_close(model.decoder.bias[new.token_to_id("def")], _bias(old)[known.token_to_id("def")])


def _bias(folder):
    return MaskedLM.from_pretrained(folder).decoder.bias


def test_a_run_with_another_tokenizer_resumes_and_completes(old, other, tmp_path):
    recipe = recipe_from(old, *other, tmp_path / "run")
    assert pretrain(recipe) == tmp_path / "run" / "final"
    assert MaskedLM.from_pretrained(tmp_path / "run" / "final").config.vocab_size == 640
    assert pretrain(recipe) == tmp_path / "run" / "final"


def test_a_unigram_token_starts_from_the_old_tokens_of_its_text(material, tmp_path):
    train_tokenizer(read_texts(PATHS), tmp_path / "unigram", vocab_size=512, kind="unigram")
    known, new = load_tokenizer(material[0]), load_tokenizer(tmp_path / "unigram")
    vocabulary = Vocabulary.of(new)
    pieces = old_tokens(known, new, vocabulary)
    words = [index for index in range(new.get_vocab_size()) if new.decode([index]).strip().isalpha()]
    assert len(words) > 50
    for index in words:
        assert known.decode(pieces[index]).strip() == new.decode([index]).strip()
    assert pieces[new.token_to_id("[MASK]")] == [known.token_to_id("[MASK]")]


def test_an_entry_without_old_tokens_starts_from_the_mean_of_all():
    values = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    wanted = torch.tensor([[3.0, 2.0], [7 / 3, 4 / 3], [2.0, 1.0]])
    torch.testing.assert_close(mean_of_tokens(values, [[1], [0, 1, 1], []]), wanted)


def test_thetas_are_those_of_the_folder_until_a_phase_sets_them(material, tmp_path):
    tokenizer, shards = material
    recipe = parse(PretrainRecipe, tiny_recipe(tokenizer, shards, tmp_path / "run"), "tiny")
    model = initial_model(recipe, Vocabulary.of(load_tokenizer(tokenizer)))
    model.config = model.config.model_copy(update={"global_rope_theta": 123_456.0})
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    values = tiny_recipe(tokenizer, shards, tmp_path / "continued")
    del values["phases"]["context"], values["phases"]["decay"]
    final = pretrain(parse(PretrainRecipe, values | {"model": {"start": str(tmp_path / "model")}}, "tiny"))
    assert MaskedLM.from_pretrained(final).config.global_rope_theta == 123_456.0


def test_the_command_accepts_the_folder_as_an_option(old, material, tmp_path):
    values = tiny_recipe(*material, tmp_path / "run")
    del values["model"], values["phases"]["context"], values["phases"]["decay"]
    (tmp_path / "recipe.toml").write_text(dump(parse(PretrainRecipe, values, "tiny")))
    result = CliRunner().invoke(app, ["pretrain", str(tmp_path / "recipe.toml"), "--from", str(old)])
    assert result.exit_code == 0, result.output
    assert MaskedLM.from_pretrained(tmp_path / "run" / "final").config.hidden_size == 64
    assert load(PretrainRecipe, tmp_path / "run" / "recipe.toml").model.start == str(old)


def test_a_shape_in_the_recipe_must_be_that_of_the_folder(old, material, tmp_path):
    values = tiny_recipe(*material, tmp_path / "run")
    values["model"]["start"] = str(old)
    vocabulary = Vocabulary.of(load_tokenizer(material[0]))
    initial_model(parse(PretrainRecipe, values, "tiny"), vocabulary)
    values["model"]["num_hidden_layers"] = 5
    with pytest.raises(ConfigError, match=r"num_hidden_layers is 5, but the model in .* has 2; leave it out"):
        initial_model(parse(PretrainRecipe, values, "tiny"), vocabulary)


def test_a_model_without_its_head_is_refused_as_a_start(material, tmp_path):
    tokenizer, shards = material
    recipe = parse(PretrainRecipe, tiny_recipe(tokenizer, shards, tmp_path / "run"), "tiny")
    encoder = Encoder(recipe.model.config(vocab_size=1024))
    encoder.save_pretrained(tmp_path / "encoder", tokenizer=tokenizer)
    with pytest.raises(CheckpointError):
        pretrain(recipe_from(tmp_path / "encoder", tokenizer, shards, tmp_path / "run"))


def test_tokens_added_to_the_models_tokenizer_start_from_the_mean(material, old, tmp_path):
    _, shards = material
    folder = tmp_path / "model"
    MaskedLM.from_pretrained(old).save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<ent>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    recipe = parse(
        PretrainRecipe, tiny_recipe(folder, shards, tmp_path / "run") | {"model": {"start": str(folder)}}, "x"
    )
    model = initial_model(recipe, Vocabulary.of(load_tokenizer(folder)))
    rows, before = model.state_dict()[EMBEDDING], MaskedLM.from_pretrained(old).state_dict()[EMBEDDING]
    assert len(before) == 1024
    assert len(rows) == 1088
    assert torch.equal(rows[:1024], before)
    assert torch.allclose(rows[1024], before.mean(0))


def test_a_start_model_may_have_any_vocabulary_size(material, old, tmp_path):
    tokenizer, shards = material
    trimmed = MaskedLM.from_pretrained(old)
    ids = load_tokenizer(tokenizer).get_vocab(with_added_tokens=True).values()
    rows = max(ids) + 1
    model = MaskedLM(trimmed.config.model_copy(update={"vocab_size": rows + 3}))
    weights = model.state_dict()
    for name, x in trimmed.state_dict().items():
        weights[name][: len(x)] = x[: len(weights[name])]
    model.load_state_dict(weights)
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    values = tiny_recipe(tokenizer, shards, tmp_path / "run") | {"model": {"start": str(tmp_path / "model")}}
    started = initial_model(parse(PretrainRecipe, values, "x"), Vocabulary.of(load_tokenizer(tokenizer)))
    assert started.config.vocab_size == rows + 3
