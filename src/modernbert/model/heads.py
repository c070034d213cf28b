"""Heads on the encoder. Each takes packed tokens and offers its own loss."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.kernels.cross_entropy import linear_cross_entropy
from modernbert.model.checkpoint import Pretrained
from modernbert.model.config import EncoderConfig
from modernbert.model.encoder import Encoder, layer_norm
from modernbert.model.init import initialize
from modernbert.packed import Sequences

IGNORED = -100  # the label of a token that is not predicted, as everywhere in PyTorch


class PredictionHead(nn.Module):
    """Dense, GELU, LayerNorm: what stands between the encoder and every classifier or decoder."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.classifier_bias)
        self.norm = layer_norm(config)

    def forward(self, x: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
        return self.norm(F.gelu(self.dense(x)))


class MaskedLM(Pretrained, nn.Module):
    """The masked language model: encoder, prediction head, decoder (tied to the embedding unless configured not to)."""

    architecture = "ModernBertForMaskedLM"

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Encoder(config)
        self.head = PredictionHead(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=config.decoder_bias)
        initialize(self.head, config)
        initialize(self.decoder, config)
        self.tie_weights()

    @property
    def tied(self) -> frozenset[str]:
        return frozenset({"decoder.weight"} if self.config.tie_word_embeddings else ())

    def tie_weights(self) -> None:
        if self.tied:
            self.decoder.weight = self.model.embeddings.tok_embeddings.weight

    def forward(self, tokens: Int[Tensor, "tokens"], sequences: Sequences) -> Float[Tensor, "tokens vocab"]:
        """Logits of every token."""
        return self.decoder(self.head(self.model(tokens, sequences)))

    def logits_at(
        self, tokens: Int[Tensor, "tokens"], sequences: Sequences, rows: Bool[Tensor, "tokens"]
    ) -> Float[Tensor, "rows vocab"]:
        """Logits of some tokens only, in their order. The others never reach the decoder."""
        return self.decoder(self.head(self.model(tokens, sequences)[rows]))

    def loss(
        self, tokens: Int[Tensor, "tokens"], sequences: Sequences, labels: Int[Tensor, "tokens"]
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy (nats) over the tokens whose label is not -100. Only those rows are decoded, in chunks."""
        predicted = labels != IGNORED
        rows = self.head(self.model(tokens, sequences)[predicted])
        return linear_cross_entropy(rows, self.decoder.weight, self.decoder.bias, labels[predicted])
