"""Write a tiny model folder with random weights through the installed package: make_model.py FOLDER."""

import sys
from pathlib import Path

from modernbert.model import EncoderConfig, MaskedLM
from modernbert.text.tokenizer import Vocabulary
from modernbert.text.tokenizer_training import train_tokenizer

folder = Path(sys.argv[1])
tokenizer = train_tokenizer(["import sys", "import os", "from pathlib import Path"], "tokenizer", vocab_size=320)
vocabulary = Vocabulary.of(tokenizer)
config = EncoderConfig(
    vocab_size=vocabulary.size,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=2,
    pad_token_id=vocabulary.pad_id,
    cls_token_id=vocabulary.cls_id,
    sep_token_id=vocabulary.sep_id,
    mask_token_id=vocabulary.mask_id,
)
MaskedLM(config).save_pretrained(folder, tokenizer="tokenizer")
