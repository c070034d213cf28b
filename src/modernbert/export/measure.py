"""Error and speed of an exported file in comparison with the packed model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modernbert.export.source import Source
from modernbert.model.encoder import Encoder
from modernbert.model.folder import Pretrained
from modernbert.model.optimized import InferenceEncoder, optimize_for_inference, unsupported_reason
from modernbert.packed import pack
from modernbert.text.framing import encode_texts
from modernbert.text.tokenizer import load_tokenizer

CLOSE = 0.99  # a file with a lower minimum cosine is marked
_BATCH = 8
_ROUNDS = 3
_MAX_LENGTH = 512  # tokens of a measured text
SENTENCES = (
    "The library opens at nine and closes when the last reader has left.",
    "How do I reset the password of an account that I no longer use?",
    "Rain is expected in the north; the south stays dry, with light winds from the west.",
    "def area(radius): return 3.14159 * radius ** 2",
    "Die Brücke über den Fluss wurde im Frühjahr erneuert und ist wieder für Fußgänger geöffnet.",
    "El tren de las siete llegó con veinte minutos de retraso a causa de la niebla.",
    "水は摂氏零度で凍り、百度で沸騰する。",
    "Return policy: unopened items within 30 days, receipts required, shipping is not refunded.",
    "The committee voted 7 to 2 in favour, and the minutes were published on 14 March 2024.",
    "Yes!",
    "A short answer is often better than a long one, but a long question may need many sentences to be asked well.",
    "She wrote the first chapter in a week, the second in a month, and the third in eleven years.",
)
Runner = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Measurement:
    """Results for one file. A cosine compares the outputs for one text; minimum and mean are over the texts."""

    file: str
    megabytes: float
    max_difference: float
    lowest_cosine: float
    mean_cosine: float
    tokens_per_second: float
    speed_against_ours: float

    @property
    def far(self) -> bool:
        return not self.lowest_cosine >= CLOSE

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"below_0.99": self.far}


@dataclass(frozen=True, eq=False)
class Batches:
    """Texts as padded batches of similar lengths, and the outputs of the packed model for them in fp32."""

    inputs: list[tuple[Tensor, Tensor]]
    expected: list[list[Tensor]]  # for each batch, the outputs of each text

    @property
    def num_tokens(self) -> int:
        return sum(int(mask.sum()) for _, mask in self.inputs)


def make_batches(source: Source, texts: Sequence[str] = ()) -> Batches:
    """Tokenize `texts`, or sentences of several lengths and languages, and run the packed model on them."""
    tokenizer = load_tokenizer(source.folder)
    sentences = list(texts) or [
        " ".join((SENTENCES * 4)[n : n + count]) for n, count in enumerate([1, 2, 1, 4] * 3 + [16])
    ]
    max_length = min(_MAX_LENGTH, source.model.config.max_position_embeddings)
    ids = sorted((one for one in encode_texts(tokenizer, sentences, max_length=max_length).ids), key=len)
    pad = source.model.config.pad_token_id or 0
    inputs = []
    for begin in range(0, len(ids), _BATCH):
        rows = [torch.from_numpy(one.astype(np.int64)) for one in ids[begin : begin + _BATCH]]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(row) for row in rows])
        inputs.append((padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long()))
    return Batches(inputs, [_by_text(_packed(source, *batch), batch[1], source.kind.by_token) for batch in inputs])


def measure(
    source: Source, batches: Batches, run: Runner, file: str, megabytes: float, packed_speed: float
) -> Measurement:
    """Compare one file with the packed model, and time it. `packed_speed` is the result of `measure_packed`."""
    cosines: list[float] = []
    difference = 0.0
    pairs: list[tuple[Tensor, Tensor]] = []
    for (ids, mask), expected in zip(batches.inputs, batches.expected, strict=True):
        outputs = _by_text(_graph_outputs(source, run(ids.numpy(), mask.numpy()), mask), mask, source.kind.by_token)
        for one, other in zip(outputs, expected, strict=True):
            a, b = one.flatten().double(), other.flatten().double()
            difference = max(difference, float((a - b).abs().max())) if a.isfinite().all() else float("inf")
            pairs.append((a, b))
    if pairs[0][0].numel() < 8:  # a cosine of fewer than 8 numbers is not informative: compare all texts together
        pairs = [(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]))]
    cosines = [float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for a, b in pairs]
    seconds = _seconds(lambda: [run(ids.numpy(), mask.numpy()) for ids, mask in batches.inputs])
    speed = batches.num_tokens / seconds
    return Measurement(
        file, megabytes, difference, min(cosines), sum(cosines) / len(cosines), speed, speed / packed_speed
    )


def measure_packed(source: Source, batches: Batches) -> float:
    """Tokens per second of the packed model, optimized for inference, with packing. The model loses its weights."""
    model: Any = source.model
    if isinstance(model, Encoder):
        model = model if unsupported_reason(model) else InferenceEncoder(model)
    elif isinstance(model, Pretrained):
        optimize_for_inference(model)

    @torch.inference_mode()
    def run() -> None:
        for ids, mask in batches.inputs:
            model(*pack(ids, mask))

    return batches.num_tokens / _seconds(run)


def _seconds(run: Callable[[], Any]) -> float:
    """The median of several rounds after a warm-up."""
    run()
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[len(seconds) // 2]


@torch.inference_mode()
def _packed(source: Source, ids: Tensor, mask: Tensor) -> Tensor:
    outputs: Tensor = source.model(*pack(ids, mask))
    return outputs.float()


def _graph_outputs(source: Source, arrays: Mapping[str, npt.NDArray[Any]], mask: Tensor) -> Tensor:
    """The compared outputs of a graph in the form of the packed outputs: rows of real tokens, or of texts."""
    outputs = [torch.from_numpy(np.asarray(arrays[name], dtype=np.float32)) for name in source.kind.compared]
    stacked = outputs[0] if len(outputs) == 1 else torch.stack(outputs, -1)
    return stacked[mask.bool()] if source.kind.by_token else stacked.reshape(len(mask), -1)


def _by_text(outputs: Tensor, mask: Tensor, by_token: bool) -> list[Tensor]:
    return list(outputs.split(mask.sum(1).tolist())) if by_token else list(outputs.unbind())
