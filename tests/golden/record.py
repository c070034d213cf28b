"""Record the golden losses anew, for a change of numerics and with its reason: python tests/golden/record.py [cuda]"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.run import golden_losses

if __name__ == "__main__":
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(__file__).with_name("losses.json" if device == "cpu" else f"losses-{device}.json")
        path.write_text(json.dumps(golden_losses(Path(folder), device), indent=1) + "\n", encoding="utf-8")
