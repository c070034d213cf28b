"""An environment of sentence-transformers 5.3 and PyLate 1.6, and their outputs for folders.

Run inside that environment, with a JSON file of {"kind", "folder", "queries", "documents"} and an output .npz:
    python older_versions.py wanted.json found.npz
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = ("torch==2.11.0", "sentence-transformers==5.3.0", "pylate==1.6.0")


def environment(folder: Path) -> Path:
    """The Python of an environment with PACKAGES in `folder`; the environment is created on first use."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (folder / "ready").touch()
    return python


def compute(python: Path, scratch: Path, **wanted: object) -> dict[str, object]:
    """The outputs of the libraries in the environment for a folder."""
    import numpy as np

    (scratch / "wanted.json").write_text(json.dumps({key: _plain(value) for key, value in wanted.items()}))
    command = [python, __file__, scratch / "wanted.json", scratch / "found.npz"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    with np.load(scratch / "found.npz") as arrays:
        return dict(arrays)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def main() -> None:
    import numpy as np

    wanted = json.loads(Path(sys.argv[1]).read_text())
    folder, queries, documents = wanted["folder"], wanted["queries"], wanted["documents"]
    if wanted["kind"] == "late":
        from pylate.models import ColBERT

        model = ColBERT(folder, device="cpu")
        found = {
            f"{name}{number}": vectors
            for name, texts in (("query", queries), ("document", documents))
            for number, vectors in enumerate(model.encode(texts, is_query=name == "query"))
        }
    elif wanted["kind"] == "rerank":
        from sentence_transformers import CrossEncoder

        found = {"scores": CrossEncoder(folder, device="cpu").predict([(queries[0], text) for text in documents])}
    elif wanted["kind"] == "sparse":
        from sentence_transformers import SparseEncoder

        model = SparseEncoder(folder, device="cpu")
        found = {"document": model.encode_document(documents, convert_to_sparse_tensor=False).numpy()}
    else:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(folder, device="cpu")
        found = {"query": model.encode_query(queries), "document": model.encode_document(documents)}
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
