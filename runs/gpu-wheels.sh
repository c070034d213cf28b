#!/usr/bin/env bash
# Wheels for a machine without package index that has torch, transformers and pytest, but not the other requirements of
# this project. For Python 3.12 (PYTHON_VERSION) on x86-64 Linux.
#
#   runs/gpu-wheels.sh FOLDER           # then there: WHEELS=FOLDER runs/gpu.sh check
#   PEERS=1 runs/gpu-wheels.sh FOLDER   # also packed-encoders, for the comparison (large)
set -euo pipefail
folder=${1:?give a folder for the wheels}
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
platforms=()
for version in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${version}_x86_64")
done
# pydantic-core in the exact version that pydantic requires: both are pinned in constraints.txt.
packages=(pydantic pydantic-core annotated-types typing-inspection tomli-w beartype)
pinned=()
for package in "${packages[@]}"; do
    pinned+=("$(grep -iE "^${package//-/[-_]}==" constraints.txt)")
done
[[ -z ${PEERS:-} ]] || pinned+=("packed-encoders==0.2.*" "nvidia-cutlass-dsl==4.5.3" "nvidia-cutlass-dsl-libs-base==4.5.3")
mkdir -p "$folder"
rm -f "$folder"/*.whl # the installation fails with two versions of a package
"$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
    --implementation cp "${platforms[@]}" -d "$folder" "${pinned[@]}"
ls -l "$folder"
