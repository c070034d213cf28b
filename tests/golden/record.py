"""Record the golden losses, or that this machine has the recorded ones to the bit.

python tests/golden/record.py          # anew on the CPU, for a change of numerics and with its reason
python tests/golden/record.py cuda     # the same on a CUDA device
python tests/golden/record.py machine  # from now on they are compared to the bit here; refused where they differ
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.run import LOSSES, MACHINES, golden_losses, known_machines, this_machine

if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        found = golden_losses(Path(folder), "cuda" if what == "cuda" else "cpu")
    if what == "machine":
        if found != json.loads(LOSSES.read_text(encoding="utf-8")):
            sys.exit("This machine has other last bits than were recorded; the losses are compared to 1e-6 here.")
        machines = [*(each for each in known_machines() if each != this_machine()), this_machine()]
    else:
        path = LOSSES if what == "cpu" else LOSSES.with_name("losses-cuda.json")
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        machines = [this_machine()]
    if what != "cuda":
        MACHINES.write_text(json.dumps(machines, indent=1) + "\n", encoding="utf-8")
