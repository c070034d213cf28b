"""Record the golden losses anew: python tests/golden/record.py. Only for a change of numerics, with its reason."""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.run import golden_losses

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(__file__).with_name("losses.json")
        path.write_text(json.dumps(golden_losses(Path(folder)), indent=1) + "\n", encoding="utf-8")
