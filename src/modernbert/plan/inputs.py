"""What a plan starts from: the shape of the model and the lengths of the documents, as far as they can be known."""

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
    """The lengths of the documents that every source trains on, and where they come from."""

    sources: Mapping[str, Ints]
    origin: str
    own: bool  # those of the recipe's own shards, whose tokens can be counted too

    def tokens(self, source: str) -> int | None:
        """The tokens that a source holds, where that is known."""
        return int(self.sources[source].sum()) if self.own else None


def model_shape(recipe: PretrainRecipe, vocab_size: int | None = None) -> EncoderConfig:
    """The configuration that the run would train, as far as it can be known without its tokenizer and its start.

    Raises:
        ConfigError: `model.start` is not here, and no preset says which shape it will have.
    """
    if vocab_size is not None and vocab_size < 1:
        raise ConfigError(f"A vocabulary of {vocab_size} tokens is none; give 1 or more.")
    if vocab_size is None and Path(recipe.tokenizer).exists():
        vocab_size = Vocabulary.of(load_tokenizer(recipe.tokenizer)).size
    if recipe.model.start is not None:
        start = Path(recipe.model.start)
        if (start / "config.json").is_file():
            found = read_config(start)
            dropout = recipe.model.attention_output_dropout
            return found.model_copy(
                update={"vocab_size": vocab_size or found.vocab_size, "attention_output_dropout": dropout}
            )
        if not recipe.model.model_fields_set - {"start", "attention_output_dropout"}:
            raise ConfigError(
                f"{start} is no folder here that shows its shape; write it first, or set its shape in [model] too, or "
                "model.preset."
            )
    return recipe.model.config(vocab_size=vocab_size or _PUBLISHED_VOCABULARY)


def document_lengths(recipe: PretrainRecipe, shards: Path | None = None, histogram: Path | None = None) -> Lengths:
    """The lengths that each source of the recipe trains on, those that it leaves out left out.

    Raises:
        ConfigError: both `shards` and `histogram` are given.
        DataError: they cannot be read, or nothing is left of a source.
    """
    if shards is not None and histogram is not None:
        raise ConfigError("Lengths come from --shards or from --histogram; give one of them.")
    missing = next((data.path for data in recipe.data.values() if not data.path.exists()), None)
    own = shards is None and histogram is None and missing is None
    if own:
        fraction = recipe.validation.fraction
        found = {name: Shards.open(data.path).split(fraction).train.lengths for name, data in recipe.data.items()}
        origin = "those of the recipe's shards"
    elif shards is not None:
        found, origin = dict.fromkeys(recipe.data, Shards.open(shards).lengths), f"those of {shards}"
    elif histogram is not None:
        found, origin = dict.fromkeys(recipe.data, histogram_lengths(histogram)), f"drawn from {histogram}"
    else:
        found, origin = dict.fromkeys(recipe.data, assumed_lengths()), f"{ASSUMPTION}, as {missing} is not here"
    fitting: dict[tuple[int, int, int | None], Ints] = {}
    for name, data in recipe.data.items():
        key, lengths = (id(found[name]), data.min_tokens, data.max_tokens), found[name]
        if key not in fitting:
            fitting[key] = lengths[(lengths >= data.min_tokens) & (lengths <= (data.max_tokens or lengths.max()))]
        if not fitting[key].any():
            raise DataError(
                f"No document of data.{name} has {data.min_tokens} to {data.max_tokens or 'any number of'} tokens "
                f"(lengths {origin}); change data.{name}, or give other lengths."
            )
    sources = {name: fitting[id(found[name]), data.min_tokens, data.max_tokens] for name, data in recipe.data.items()}
    return Lengths(sources, origin, own)
