"""The launch files of runs/, each on this machine with two processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from corpora import make_shards, make_tokenizer, tiny_recipe
from modernbert.config import dump, parse
from modernbert.train.recipe import PretrainRecipe

pytestmark = pytest.mark.distributed
RUNS = Path(__file__).parents[2] / "runs"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    tokenizer = make_tokenizer(folder / "tokenizer")
    return tokenizer, make_shards(folder / "shards", tokenizer)


@pytest.fixture
def recipe(material, tmp_path):
    values = tiny_recipe(*material, tmp_path / "run")
    del values["phases"]["context"], values["phases"]["decay"]
    (tmp_path / "recipe.toml").write_text(dump(parse(PretrainRecipe, values, "tiny")))
    return tmp_path / "recipe.toml"


def launch(command, recipe, **environment):
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "PROCESSES": "2"} | environment
    environment["PATH"] = f"{recipe.parent}:{bin_folder}:{os.environ['PATH']}"
    result = subprocess.run(command, env=environment, cwd=RUNS.parent, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert "2 processes" in result.stderr
    assert (recipe.parent / "run" / "final" / "model.safetensors").is_file()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.mark.slow
def test_one_node_trains_with_overrides(recipe):
    launch([RUNS / "one-node.sh", recipe, "run.parallel=fsdp"], recipe, RESTARTS="0")


@pytest.mark.slow
def test_the_slurm_file_trains_where_srun_runs_its_command_here(recipe):
    for name, line in {"srun": 'exec "$@"', "scontrol": "echo 127.0.0.1; echo other-node"}.items():
        (recipe.parent / name).write_text(f"#!/bin/sh\n{line}\n")
        (recipe.parent / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_NNODES": "1", "SLURM_JOB_ID": "17", "PORT": free_port()}
    launch(["bash", RUNS / "cluster.slurm", recipe], recipe, **slurm)


@pytest.mark.slow
def test_the_kubernetes_command_trains_with_the_variables_of_its_pod(recipe):
    service, job = yaml.safe_load_all((RUNS / "cluster.kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["NODES"] == str(job["spec"]["completions"])
    assert variables["HEAD"] == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    here = {"NODES": "1", "PROCESSES": "2", "HEAD": "127.0.0.1", "PORT": free_port(), "RECIPE": str(recipe)}
    assert here.keys() == variables.keys()
    launch([*container["command"], *container["args"]], recipe, JOB_COMPLETION_INDEX="0", **here)
