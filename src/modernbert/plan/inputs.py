"""The inputs of a plan: the shape of the model and the lengths of the documents, as far as they are known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modernbert.errors import ConfigError, DataError
from modernbert.model.config import EncoderConfig
from modernbert.model.folder import read_config
from modernbert.stream.lengths import ASSUMPTION, Ints, assumed_lengths, histogram_lengths
from modernbert.stream.shards import Shards
from modernbert.text.tokenizer import Vocabulary, load_tokenizer
from modernbert.train.recipe import PretrainRecipe

_PUBLISHED_VOCABULARY = 50_368


@dataclass(frozen=True)
class Lengths:
    """The lengths of the training documents of every source, and where they come from."""

    sources: Mapping[str, Ints]
    origin: str
    from_recipe: bool  # whether they are those of the recipe's shards, so that tokens can be counted

    def tokens(self, source: str) -> int | None:
        """The number of tokens of a source, if known."""
        return int(self.sources[source].sum()) if self.from_recipe else None


def model_shape(recipe: PretrainRecipe, vocab_size: int | None = None) -> EncoderConfig:
    """The configuration of the model, as far as it is known without its tokenizer and its start model.

    Raises:
        ConfigError: `model.start` does not exist, and the recipe does not set a shape.
    """
    if vocab_size is not None and vocab_size < 1:
        raise ConfigError(f"A vocabulary cannot have {vocab_size} tokens; give 1 or more.")
    if vocab_size is None and Path(recipe.tokenizer).exists():
        vocab_size = Vocabulary.of(load_tokenizer(recipe.tokenizer)).size
    if recipe.model.start is not None:
        start = Path(recipe.model.start)
        if (start / "config.json").is_file():
            config = read_config(start)
            dropout = recipe.model.attention_output_dropout
            return config.model_copy(
                update={"vocab_size": vocab_size or config.vocab_size, "attention_output_dropout": dropout}
            )
        if not recipe.model.model_fields_set - {"start", "attention_output_dropout"}:
            raise ConfigError(
                f"{start} does not exist, so the shape of the model is unknown; create the folder first, or set the "
                "shape in [model] or model.preset."
            )
    return recipe.model.config(vocab_size=vocab_size or _PUBLISHED_VOCABULARY)


def document_lengths(recipe: PretrainRecipe, shards: Path | None = None, histogram: Path | None = None) -> Lengths:
    """The lengths of the documents of each source, without documents that the recipe leaves out.

    Raises:
        ConfigError: both `shards` and `histogram` are given.
        DataError: they cannot be read, or no document of a source is left.
    """
    if shards is not None and histogram is not None:
        raise ConfigError("Lengths come from --shards or from --histogram; give one of them.")
    missing = next((data.path for data in recipe.data.values() if not data.path.exists()), None)
    from_recipe = shards is None and histogram is None and missing is None
    if from_recipe:
        fraction = recipe.validation.fraction
        by_source = {name: Shards.open(data.path).split(fraction).train.lengths for name, data in recipe.data.items()}
        origin = "those of the recipe's shards"
    elif shards is not None:
        by_source, origin = dict.fromkeys(recipe.data, Shards.open(shards).lengths), f"those of {shards}"
    elif histogram is not None:
        by_source, origin = dict.fromkeys(recipe.data, histogram_lengths(histogram)), f"sampled from {histogram}"
    else:
        by_source, origin = dict.fromkeys(recipe.data, assumed_lengths()), f"{ASSUMPTION}, as {missing} does not exist"
    fitting: dict[tuple[int, int, int | None], Ints] = {}
    for name, data in recipe.data.items():
        key, lengths = (id(by_source[name]), data.min_tokens, data.max_tokens), by_source[name]
        if key not in fitting:
            fitting[key] = lengths[(lengths >= data.min_tokens) & (lengths <= (data.max_tokens or lengths.max()))]
        if not fitting[key].any():
            raise DataError(
                f"No document of data.{name} has {data.min_tokens} to {data.max_tokens or 'any number of'} tokens "
                f"(lengths {origin}); change data.{name}, or give other lengths."
            )
    sources = {
        name: fitting[id(by_source[name]), data.min_tokens, data.max_tokens] for name, data in recipe.data.items()
    }
    return Lengths(sources, origin, from_recipe)
