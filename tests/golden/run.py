"""Twenty steps on fixed data: on the CPU in fp32, one thread, plain PyTorch; or on CUDA in bf16, with all its kernels.

No text of the running Python takes part: versions agree.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modernbert.kernels import native
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.runtime import autocast, cpu_features, cpu_name
from modernbert.stream.loader import Loader
from modernbert.stream.shards import Documents, Shards
from modernbert.text.tokenizer import Vocabulary
from modernbert.train.optimizer import StableAdamW, parameter_groups

LOSSES = Path(__file__).with_name("losses.json")
MACHINES = Path(__file__).with_name("machines.json")  # on which the losses are those of LOSSES to the bit
TOLERANCE = 1e-6  # elsewhere: another processor sums in another order, and 1.8e-7 was seen


def this_machine() -> dict[str, Any]:
    """What the last bits of a sum depend on: the processor, its instructions, and the build of torch that uses them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "processor": cpu_name(),
        "family": known.get("cpu family"),
        "model": known.get("model"),
        "features": sorted(name for name, there in cpu_features().items() if there),
        "torch": torch.__version__,
        "torch takes": torch.backends.cpu.get_cpu_capability(),
    }


def known_machines() -> list[dict[str, Any]]:
    """The machines of MACHINES."""
    return json.loads(MACHINES.read_text(encoding="utf-8"))


def steps_that_differ(found: Sequence[float], recorded: Sequence[float], to_the_bit: bool) -> list[int]:
    """The steps whose loss is not the recorded one, from 0 on."""
    assert len(found) == len(recorded)
    tolerance = 0.0 if to_the_bit else TOLERANCE
    pairs = enumerate(zip(found, recorded, strict=True))
    return [step for step, (one, other) in pairs if not math.isclose(one, other, rel_tol=tolerance)]


def golden_losses(folder: Path, device: str = "cpu") -> list[float]:
    """Loader, masking, model, backward pass and optimizer together: the loss of every step."""
    from corpora import write_shard

    generator = np.random.Generator(np.random.PCG64DXSM(0))
    documents = [generator.zipf(1.3, size=int(n)).clip(max=499).tolist() for n in generator.integers(5, 300, size=200)]
    write_shard(folder / "golden.ds", documents)
    special = np.zeros(512, dtype=np.bool_)
    special[500:] = True
    vocabulary = Vocabulary(512, 500, 501, 502, 503, special, np.ones(512, dtype=np.int32))
    shards = Documents.all_of(Shards.open(folder))
    loader = Loader({"golden": shards}, {"golden": 1.0}, vocabulary, max_length=128, mask_ratio=0.3, seed=0)
    native.select("off")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=2,
        local_attention=16,
    )
    model = MaskedLM(config).train().to(device)
    optimizer = StableAdamW(parameter_groups(model, 1e-5), lr=1e-3, peak_lr=1e-3)
    losses = []
    for _ in range(20):
        batch = loader.next_batch(4)
        tokens, sequences, labels = batch.input_ids.to(device), batch.sequences.to(device), batch.labels.to(device)
        with autocast(torch.device(device), "bf16" if device == "cuda" else "fp32"):
            loss = model.loss(tokens, sequences, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    torch.set_num_threads(threads)
    native.select("")
    return losses
