"""The encoder, its heads and its folders."""

from modernbert.model.config import EncoderConfig
from modernbert.model.encoder import Encoder
from modernbert.model.heads import MaskedLM

__all__ = ["Encoder", "EncoderConfig", "MaskedLM"]
