#!/usr/bin/env bash
# Wheels for a machine with no package index, on which runs/gpu.sh finds torch, transformers and pytest but not all of
# what this project needs. For Python 3.12 (PYTHON_VERSION) on x86-64 Linux.
#
#   runs/gpu-wheels.sh FOLDER           # then there: WHEELS=FOLDER runs/gpu.sh check
#   PEERS=1 runs/gpu-wheels.sh FOLDER   # packed-encoders too, which is compared with (large)
set -euo pipefail
folder=${1:?give a folder for the wheels}
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
platforms=()
for version in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${version}_x86_64")
done
# pydantic-core in exactly the version that pydantic wants: the two are pinned together in constraints.txt.
packages=(pydantic pydantic-core annotated-types typing-inspection tomli-w beartype)
pinned=()
for package in "${packages[@]}"; do
    pinned+=("$(grep -iE "^${package//-/[-_]}==" constraints.txt)")
done
[[ -z ${PEERS:-} ]] || pinned+=("packed-encoders==0.2.*" "nvidia-cutlass-dsl==4.5.3" "nvidia-cutlass-dsl-libs-base==4.5.3")
mkdir -p "$folder"
rm -f "$folder"/*.whl # two versions of a package would stop the installation
"$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
    --implementation cp "${platforms[@]}" -d "$folder" "${pinned[@]}"
ls -l "$folder"
