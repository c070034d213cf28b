"""Replacements for Slurm's programs, for tests of cluster runs."""

import os
import stat
import sys
import textwrap
from pathlib import Path

import pytest

_PROGRAMS = {
    "sbatch": """
        import os, pathlib, re, subprocess, sys
        given = pathlib.Path(sys.argv[-1]).read_text()
        folder = pathlib.Path(__file__).parent
        number = len(list(folder.glob("*.slurm")))
        (folder / f"{number}.slurm").write_text(given)
        last = int(re.search(r"--array=0-(\\d+)", given)[1])
        failed = 0
        for task in range(last + 1):
            environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "here"}
            failed |= subprocess.run(["bash", sys.argv[-1]], env=environment, capture_output=True).returncode
        print("Submitted batch job", number)
        sys.exit(failed)
    """,
    "srun": """
        import os, sys
        os.execvp(sys.argv[4], sys.argv[4:])
    """,
    "scontrol": "print('here')",
}


def install_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the replacements on the PATH: they run a job array on this machine, one task after the other.

    `folder` then has the scripts that were submitted, as 0.slurm, 1.slurm ...
    """
    folder.mkdir()
    for name, code in _PROGRAMS.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{textwrap.dedent(code)}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder
