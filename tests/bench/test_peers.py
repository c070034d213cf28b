"""The installed peers compute the same as the encoder."""

import pytest
import torch

from modernbert.bench import peers
from modernbert.bench.inference import compare_outputs
from modernbert.bench.models import make_model
from modernbert.bench.peers import PEERS, Setting, baseline, choose_peers
from modernbert.bench.workloads import Workload
from modernbert.errors import ConfigError
from modernbert.installation import install_command
from modernbert.model import Encoder, MaskedLM

COMPILED = "transformers-compiled"


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Shared, so that the model is exported once."""
    return Setting(make_model(Encoder, "tiny"), "fp32", 1, tmp_path_factory.mktemp("scratch"))


@pytest.mark.parametrize(
    "peer",
    [pytest.param(peer, marks=pytest.mark.slow if peer.name in (COMPILED, "onnxruntime") else ()) for peer in PEERS],
    ids=lambda peer: peer.name,
)
@pytest.mark.filterwarnings("default")  # other engines emit warnings of their own
def test_a_peer_computes_the_same_whatever_the_shape(peer, setting):
    if peer.unsupported_reason:
        pytest.skip(peer.unsupported_reason)
    engine, reference = peer.make(setting), baseline(setting, "fp32")
    for lengths in ((90, 7, 64, 33), (70,), (1, 200)):
        [batch] = Workload("", lengths).batches(setting.config.vocab_size)
        with torch.inference_mode():
            expected = reference.prepare(batch)()[batch.real]
            assert compare_outputs(engine, batch, expected).error < 1e-5


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name in ("onnxscript", "openvino") else object())
    assert {peer.name: peer.unsupported_reason for peer in PEERS} == {
        "transformers-compiled": None,
        "sentence-transformers": None,
        "onnxruntime": f"onnxscript missing: {install_command('peers')}",
        "openvino": f"onnxscript and openvino missing: {install_command('peers')}",
    }


@pytest.mark.parametrize("kind", [Encoder, MaskedLM])
def test_the_benchmark_needs_transformers(kind, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install .*\[bench\]'"):
        peers.transformers_model(make_model(kind, "tiny"))


def test_peers_are_chosen_by_name():
    assert choose_peers(()) == choose_peers(("transformers",)) == ()
    assert [peer.name for peer in choose_peers(("openvino", "openvino"))] == ["openvino"]
    assert choose_peers(("all",)) == PEERS
