"""Two gloo processes on this machine, started as torchrun starts them."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager

TIMEOUT_SECONDS = 240  # of a run


@contextmanager
def started(recipe, size, program=("-m", "modernbert", "pretrain")):
    """A command on a recipe in `size` processes, with the environment of torchrun but without its agent."""
    port, processes = free_port(), []
    for rank in range(size):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if size > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, *program, str(recipe)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def train(recipe, size, program=("-m", "modernbert", "pretrain")):
    with started(recipe, size, program) as processes:
        for process in processes:
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
            assert process.returncode == 0, errors


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]


def losses(run):
    return [line["loss"] for line in lines(run) if "loss" in line]
