"""The data of a pretraining run: training and held-out documents, and the stream of each phase."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from modernbert.errors import DataError
from modernbert.stream.loader import Batch, Loader, validation_batches
from modernbert.stream.mixture import cap_repeats
from modernbert.stream.shards import Documents, Shards
from modernbert.text.tokenizer import Vocabulary, sha256
from modernbert.train.recipe import PretrainRecipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainData:
    """The documents of every source, by its name."""

    recipe: PretrainRecipe
    vocabulary: Vocabulary
    training: Mapping[str, Documents]
    held_out: Mapping[str, Documents]

    @classmethod
    def open(cls, recipe: PretrainRecipe, vocabulary: Vocabulary) -> "PretrainData":
        """Open the shards of a recipe.

        Raises:
            DataError: a source has no document of the lengths in the recipe, or a phase has no held-out token.
        """
        tokenizer_hash = sha256(recipe.tokenizer)
        training, held_out = {}, {}
        for name, data in recipe.data.items():
            shards = Shards.open(data.path)
            shards.check_vocabulary(vocabulary, tokenizer_hash)
            split = shards.split(recipe.validation.fraction)
            training[name] = split.train.between(data.min_tokens, data.max_tokens)
            held_out[name] = split.validation.between(data.min_tokens, data.max_tokens)
            if not training[name].lengths.any():
                raise DataError(
                    f"{data.path} has no document of {data.min_tokens} to {data.max_tokens or 'any number of'} tokens; "
                    f"change data.{name}."
                )
        for name, phase in recipe.phases.items():
            if not any(held_out[source].lengths.any() for source in phase.mixture):
                raise DataError(
                    f"The held-out documents of the sources of phases.{name} have no token; raise validation.fraction, "
                    "or remove empty documents from the shards."
                )
        return cls(recipe, vocabulary, training, held_out)

    def loader(self, name: str) -> Loader:
        """The stream of packed sequences of a phase, at its beginning."""
        phase = self.recipe.phases[name]
        weights: Mapping[str, float] = phase.mixture
        if phase.max_repeats is not None:
            tokens = {source: int(self.training[source].lengths.sum()) for source in weights}
            weights = cap_repeats(weights, tokens, phase.tokens, phase.max_repeats)
            configured = {source: weight / sum(phase.mixture.values()) for source, weight in phase.mixture.items()}
            for source, weight in weights.items():
                if weight < configured[source] - 1e-9:
                    logger.info(
                        "%s: %s gives %.1f %% instead of %.1f %%, because of max_repeats = %g.",
                        name, source, 100 * weight, 100 * configured[source], phase.max_repeats,
                    )  # fmt: skip
        return Loader(
            {source: self.training[source] for source in weights},
            weights,
            self.vocabulary,
            max_length=phase.max_length,
            mask_ratio=phase.mask_ratio,
            seed=self.recipe.seed,
        )

    def validation(self, name: str) -> dict[str, list[Batch]]:
        """The held-out documents of a phase's sources, packed to its length."""
        validation, phase = self.recipe.validation, self.recipe.phases[name]
        return {
            source: validation_batches(
                self.held_out[source],
                self.vocabulary,
                max_length=phase.max_length,
                tokens=validation.tokens,
                mask_ratio=validation.mask_ratio,
            )
            for source in phase.mixture
            if self.held_out[source].lengths.any()
        }

    def check_present(self) -> None:
        """Check that the shards have not changed.

        Raises:
            DataError: a shard has changed or is missing.
        """
        for documents in self.training.values():
            documents.shards.check_present()
