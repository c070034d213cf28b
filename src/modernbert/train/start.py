"""The initial weights of a run: random, or those of a model folder, with the same or another tokenizer."""

import json
import logging
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.model import MaskedLM
from modernbert.model.folder import find_folder
from modernbert.text.tokenizer import Vocabulary, load_tokenizer, num_ids, sha256
from modernbert.train.recipe import PretrainRecipe

logger = logging.getLogger(__name__)


def initial_model(recipe: PretrainRecipe, vocabulary: Vocabulary) -> MaskedLM:
    """The model before the first update, in fp32.

    Raises:
        ConfigError: the recipe sets a shape that differs from the model in `model.start`.
        CheckpointError: `model.start` has no model, or not a masked language model.
        DataError: the tokenizer differs, and the model folder has no tokenizer.
    """
    values: dict[str, Any] = {
        "vocab_size": vocabulary.size,
        "pad_token_id": vocabulary.pad_id,
        "cls_token_id": vocabulary.cls_id,
        "sep_token_id": vocabulary.sep_id,
        "mask_token_id": vocabulary.mask_id,
        "max_position_embeddings": max(phase.max_length for phase in recipe.phases.values()),
    }
    torch.manual_seed(recipe.seed)
    if recipe.model.start is None:
        return MaskedLM(recipe.model.config(**values))
    folder = find_folder(recipe.model.start)
    old = MaskedLM.from_pretrained(folder, dtype=torch.float32)
    shape = recipe.model.model_dump(exclude_unset=True, exclude_none=True, exclude={"start", "preset"})
    for name in shape.keys() - {"attention_output_dropout", "global_attn_every_n_layers"}:
        if shape[name] != (found := getattr(old.config, name)):
            raise ConfigError(f"model.{name} is {shape[name]}, but the model in {folder} has {found}; leave it out.")
    values["max_position_embeddings"] = max(values["max_position_embeddings"], old.config.max_position_embeddings)
    values["attention_output_dropout"] = recipe.model.attention_output_dropout
    same = (folder / "tokenizer.json").is_file() and sha256(folder) == sha256(recipe.tokenizer)
    old_size = old.config.vocab_size
    same &= num_ids(load_tokenizer(recipe.tokenizer)) <= old_size  # tokens may have been added to its own tokenizer
    if same:
        values["vocab_size"] = old_size
    model = MaskedLM(type(old.config).model_validate(old.config.model_dump() | values))
    weights = old.state_dict()
    if not same:
        old_ids = old_tokens(load_tokenizer(folder), load_tokenizer(recipe.tokenizer), vocabulary)
        old_ids = [[index for index in ids if index < old_size] for ids in old_ids]
        num_kept = sum(len(ids) == 1 for ids in old_ids)
        logger.info(
            "%s has another tokenizer: %s of %s tokens keep their embedding, the others start from the mean of their "
            "old tokens.", folder, f"{num_kept:,}", f"{vocabulary.size:,}",
        )  # fmt: skip
        for name in ("model.embeddings.tok_embeddings.weight", "decoder.weight", "decoder.bias"):
            if name in weights:
                weights[name] = mean_of_tokens(weights[name], old_ids)
    model.load_state_dict(weights)
    model.tie_weights()
    return model


def old_tokens(old: Tokenizer, new: Tokenizer, vocabulary: Vocabulary) -> list[list[int]]:
    """For every id of the new vocabulary, the ids of its text in the old vocabulary; none for unused ids.

    A token of both vocabularies keeps its own id. Parts of a character are split into bytes.
    """
    known = old.get_vocab(with_added_tokens=True)
    both_bytes = all(json.loads(tokenizer.to_str())["model"]["type"] == "BPE" for tokenizer in (old, new))
    old_ids: list[list[int]] = [[] for _ in range(vocabulary.size)]
    for token, index in new.get_vocab(with_added_tokens=True).items():
        text = new.decode([index], skip_special_tokens=False)
        if token in known and (both_bytes or vocabulary.special[index]):
            old_ids[index] = [known[token]]
        elif vocabulary.special[index]:
            old_ids[index] = []
        elif "\ufffd" in text:
            old_ids[index] = [known[character] for character in token if character in known]
        else:
            old_ids[index] = old.encode(text, add_special_tokens=False).ids
    return old_ids


def mean_of_tokens(values: Tensor, old_ids: list[list[int]]) -> Tensor:
    """Rows of `values` averaged over each list of ids; the mean of all rows where a list is empty."""
    counts = torch.tensor([len(ids) for ids in old_ids])
    owner = torch.repeat_interleave(torch.arange(len(old_ids)), counts)
    rows = values[torch.tensor([index for ids in old_ids for index in ids], dtype=torch.int64)]
    sums = values.new_zeros(len(old_ids), *values.shape[1:]).index_add_(0, owner, rows)
    means = sums / counts.clamp(min=1).view(-1, *[1] * (values.dim() - 1)).to(values.dtype)
    means[counts == 0] = values.mean(0)
    return means
