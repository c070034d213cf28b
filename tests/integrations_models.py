"""Small ModernBERT models of transformers, with weights large enough that attention and windows matter."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 2,
    "local_attention": 16, "max_position_embeddings": 256, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def make(kind="ModernBertModel", seed=0, **changes):
    """A model of this class in eval mode."""
    config = transformers.ModernBertConfig(**(SIZES | changes), attn_implementation="sdpa")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, kind)(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("Wqkv.weight", "Wi.weight", "Wo.weight")):
                    parameter.mul_(5)
                if name.endswith("norm.weight"):
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def batch(lengths=(40, 7, 23, 1), side="right", seed=1):
    """Ids (rows, longest) and their mask."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(lengths)
    places = torch.arange(max(lengths))
    mask = places < sizes[:, None] if side == "right" else places >= max(lengths) - sizes[:, None]
    ids = torch.randint(3, SIZES["vocab_size"], mask.shape, generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


def relative(actual, expected):
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


def make_tokenizer():
    """A tokenizer of transformers whose words are w5, w6, ... w299."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *(f"w{number}" for number in range(5, 300))])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 1), ("[SEP]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        unk_token="[UNK]", model_max_length=SIZES["max_position_embeddings"],
    )  # fmt: skip


def make_texts(count, seed=0, longest=60):
    generator = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    return [" ".join(f"w{number(5, 300)}" for _ in range(number(1, longest))) for _ in range(count)]


def write_folder(folder, kind="ModernBertModel", **changes):
    """A folder of transformers with model and tokenizer."""
    make(kind, **changes).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)
