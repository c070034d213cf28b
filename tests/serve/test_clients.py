"""Common client libraries, in a separate environment, against a server of this package."""

import subprocess
import sys
from pathlib import Path

import pytest

from served import listening

pytestmark = pytest.mark.peers

PACKAGES = (
    *("openai==3.57.0", "cohere==7.3.1", "huggingface_hub==1.33.0", "langchain-openai==1.7.4"),
    *("langchain-huggingface==1.2.3", "llama-index-embeddings-openai==0.7.0"),
    "llama-index-embeddings-text-embeddings-inference==0.6.0",
)


@pytest.mark.timeout(900)
def test_clients_work_unchanged(loaded, tmp_path):
    environment = tmp_path / "clients"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True, timeout=600)
    with listening([loaded["embedder"], loaded["reranker"]]) as address:
        script = Path(__file__).with_name("clients.py")
        found = subprocess.run([python, script, address], capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("works") == 5
