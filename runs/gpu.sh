#!/usr/bin/env bash
# Run tests, benchmarks and a short training run on a machine with one NVIDIA GPU; or train the packaged model.
#
#   runs/gpu.sh check                          # at most LIMIT seconds (default: 360)
#   STAGES="tests training" runs/gpu.sh check  # some of them: facts tests native inference peers training attention
#                                              # loop pretrain cpu
#   DATA=english-mini.tar.xz runs/gpu.sh train # recipes/english-mini on the archive of its carry.py; TRAIN_SECONDS and
#                                              # SPEED (tokens per second) set the length of its phases
#   runs/gpu.sh train RECIPE.toml [KEY=VALUE ...]
#   runs/gpu.sh --dry check                    # the same on a CPU, in tiny sizes: a test of this script
#
# It needs Python with torch, transformers and pytest, CMake and a C++ compiler. This project need not be installed: the
# source tree is enough. Other requirements are wheels in the folder WHEELS (runs/gpu-wheels.sh).
# Each stage has its own time limit, and the next one also runs after a failure. The folder OUT (default: output/gpu) gets
# gpu.json (all reports), report.md (their tables), logs.tar.gz (logs and single reports); `train` writes
# final.tar.gz.part-* (the model, in parts), metrics.jsonl and train.log.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
dry=${GPU_DRY:-}
if [[ ${1:-} == --dry ]]; then
    dry=1
    shift
fi
export GPU_DRY=$dry
export OUT=${OUT:-output/gpu} PYTHONUNBUFFERED=1 TQDM_DISABLE=1
python=${PYTHON:-python3}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
modernbert() { "$python" -m modernbert "$@"; }

# The folder of logs and reports until they are packed, also for the processes of the stages.
if [[ -z ${GPU_WORK:-} ]]; then
    GPU_WORK=$(mktemp -d "${TMPDIR:-/tmp}/gpu-XXXXXX")
    export GPU_WORK
    trap 'rm -rf "$GPU_WORK"' EXIT
    export PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH}
    if [[ -n ${WHEELS:-} ]]; then
        "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
            --upgrade --target "$GPU_WORK/site" "$WHEELS"/*.whl || exit 2
        export PYTHONPATH=$root/src:$GPU_WORK/site:$PYTHONPATH
    fi
fi
logs=$GPU_WORK/logs json=$GPU_WORK/json native=$GPU_WORK/native
mkdir -p "$logs" "$json"

device=cuda
workers=()
"$python" -c 'import xdist' 2>/dev/null && workers=(-n "${WORKERS:-8}")
if [[ -n $dry ]]; then
    device=dry workers=()
fi

# One stage, in a separate process: `runs/gpu.sh stage NAME`.
run_stage() {
    set -e
    local tests
    case $1 in
        facts)
            command -v nvidia-smi >/dev/null && nvidia-smi
            modernbert doctor
            if [[ -n $dry ]]; then
                modernbert bench ceilings --device dry --model tiny --tokens 64 --output "$json/ceilings.json"
            else
                modernbert bench ceilings --device cuda --output "$json/ceilings.json"
            fi
            ;;
        tests) # only files with GPU tests: others may need missing packages
            mapfile -t tests < <(grep -rlE 'mark\.gpu' tests --include='test_*.py' | sort)
            "$python" -m pytest -m gpu -p no:cacheprovider -p no:benchmark "${workers[@]}" ${dry:+--collect-only} "${tests[@]}"
            ;;
        native) # the CPU kernels on this machine, in parallel to the GPU tests
            cmake -S . -B "$native" -DCMAKE_BUILD_TYPE=Release
            [[ -n $dry ]] || cmake --build "$native" --parallel 8
            [[ -n $dry ]] || export MODERNBERT_NATIVE_LIBRARY=$native/libmodernbert.so
            OMP_NUM_THREADS=2 \
                "$python" -m pytest -p no:cacheprovider -p no:benchmark "${workers[@]}" ${dry:+--collect-only} \
                -k "not triton" tests/kernels/test_attention.py tests/kernels/test_elementwise.py \
                tests/kernels/test_cross_entropy.py tests/model/test_optimized.py
            ;;
        inference)
            modernbert bench inference --device "$device" ${dry:+--model tiny --rounds 1} --profile \
                --output "$json/inference.json"
            ;;
        peers) # mostly compilation
            if [[ -n $dry ]]; then
                modernbert bench inference --device dry --model tiny --rounds 1 --workload "4 x 32" \
                    --peer packed-encoders --output "$json/inference-peers.json"
            else
                modernbert bench inference --device cuda --peer all --workload "64 x 512" \
                    --workload "64 documents, mean 256, longest 512" --output "$json/inference-peers.json"
            fi
            ;;
        training)
            if [[ -n $dry ]]; then
                modernbert bench training --device dry --model tiny --rounds 1 --profile --output "$json/training.json"
            else
                modernbert bench training --device cuda --model base --rounds 3 --profile \
                    --output "$json/training.json"
                modernbert bench training --device cuda --model large --rounds 3 --output "$json/training-large.json"
            fi
            ;;
        attention)
            local lengths=(--length 512 --length 1024 --length 8192)
            [[ -z $dry ]] || lengths=()
            modernbert bench attention --device "$device" "${lengths[@]}" --output "$json/attention.json"
            ;;
        loop)
            if [[ -n $dry ]]; then
                modernbert bench loop --device dry --model tiny --steps 12 --output "$json/loop-tiny.json"
            else
                modernbert bench loop --device cuda --model base --seconds 5 --output "$json/loop-base.json"
                modernbert bench loop --device cuda --model 28m --seconds 4 --output "$json/loop-28m.json"
            fi
            ;;
        pretrain)
            "$python" - "$GPU_WORK/pretrain" "$json/pretrain.json" <<PYTHON
import sys
from pathlib import Path
from modernbert.bench.loop import SHAPES, run_with_resume
from modernbert.bench.report import write_report

shape, steps, device = (SHAPES["tiny"], 24, "cpu") if "$dry" else (SHAPES["28m"], 600, "cuda")
report = run_with_resume(Path(sys.argv[1]), shape, steps=steps, device=device)
write_report(report, Path(sys.argv[2]))
print(report)
PYTHON
            ;;
        cpu)
            if [[ -n $dry ]]; then
                modernbert bench inference --model tiny --dtype fp32 --rounds 1 --workload "1 x 16" --output "$json/cpu.json"
            else
                MODERNBERT_NATIVE_LIBRARY=$native/libmodernbert.so modernbert bench inference --rounds 3 \
                    --output "$json/cpu.json"
            fi
            ;;
        *)
            echo "There is no stage $1." >&2
            exit 2
            ;;
    esac
}

# Pack logs and single reports after each stage, in case this script is stopped.
pack_logs() { # two stages may end at the same time
    local packed
    packed=$(mktemp "$GPU_WORK/packed-XXXXXX")
    tar -czf "$packed" -C "$GPU_WORK" logs json 2>/dev/null
    mv "$packed" "$OUT/logs.tar.gz"
}

began=$SECONDS
# `stage NAME SECONDS`: run a stage with its time limit, or the remaining time of all stages.
stage() {
    local name=$1 limit=$2 left=$((${LIMIT:-360} - (SECONDS - began))) from=$SECONDS status=0 ended note=""
    [[ -z ${STAGES:-} || " $STAGES " == *" $name "* ]] || return 0
    [[ -z $dry ]] || limit=600 left=600
    if ((left < 5)); then
        ended="no time left"
    else
        timeout --kill-after=5 "$((limit < left ? limit : left))" bash "${BASH_SOURCE[0]}" stage "$name" \
            >"$logs/$name.log" 2>&1 </dev/null || status=$?
        case $status in
            0) ended=ok ;;
            124 | 137) ended="time limit" ;;
            *) ended="failed ($status)" ;;
        esac
    fi
    if [[ $name =~ ^(tests|native)$ && -s $logs/$name.log ]]; then # the last line of pytest has the counts
        note=$(tail -n 1 "$logs/$name.log" | tr -cd '[:alnum:] ,.()' | cut -c1-100)
    fi
    printf '{"name": "%s", "status": "%s", "seconds": %d, "note": "%s"}\n' \
        "$name" "$ended" "$((SECONDS - from))" "$note" >>"$GPU_WORK/stages.jsonl"
    echo "$name: $ended, $((SECONDS - from)) s"
    pack_logs
}

check() {
    : >"$GPU_WORK/stages.jsonl"
    stage facts 30
    stage native 100 & # builds and tests on the CPU, in parallel to the GPU tests
    local building=$!
    stage tests 130
    wait "$building"
    stage inference 50
    stage peers 60
    stage training 120
    stage attention 60
    stage loop 80
    stage pretrain 60
    stage cpu 45
    printf '{"stages": [%s]}\n' "$(paste -sd, "$GPU_WORK/stages.jsonl")" >"$json/stages.json"
    modernbert bench gpu-report "$json" --merged "$OUT/gpu.json" >"$OUT/report.md"
    pack_logs
    for log in "$logs"/*.log; do # print the end of failed logs
        if grep -q "\"name\": \"$(basename "$log" .log)\", \"status\": \"[^o]" "$GPU_WORK/stages.jsonl"; then
            printf '\n== the end of %s\n' "$(basename "$log")"
            tail -n 12 "$log" | cut -c1-200
        fi
    done
    modernbert bench gpu-report "$json" --brief
    ! grep -qv '"status": "ok"' "$GPU_WORK/stages.jsonl"
}

train() {
    local mini=recipes/english-mini
    local recipe=${1:-$mini/pretrain.toml} directory=$GPU_WORK/run status=0 overrides=()
    [[ $# == 0 ]] || shift
    if [[ -n ${DATA:-} ]]; then
        "$python" $mini/carry.py unpack "$DATA" || return 2
    fi
    if [[ -n ${TRAIN_SECONDS:-} && -n ${SPEED:-} ]]; then
        mapfile -t overrides < <("$python" $mini/phases.py --seconds "$TRAIN_SECONDS" --speed "$SPEED" | tr ' ' '\n')
    fi
    if [[ -n $dry ]]; then
        recipe=$("$python" - "$GPU_WORK/dry" <<'PYTHON'
import sys
from pathlib import Path
from modernbert.bench.loop import SHAPES, write_run

print(write_run(Path(sys.argv[1]), SHAPES["tiny"], steps=12, device="cpu"))
PYTHON
        ) || return 2
    fi
    timeout --signal=TERM --kill-after=30 "${LIMIT:-540}" "$python" -m modernbert pretrain "$recipe" \
        "run.directory=$directory" "${overrides[@]}" "$@" 2>&1 | tee "$OUT/train.log"
    status=${PIPESTATUS[0]}
    cp "$directory/metrics.jsonl" "$OUT" 2>/dev/null
    # The last checkpoint of an incomplete run: continue from it with --from.
    local kept=final
    [[ -d $directory/final ]] || kept=checkpoints
    tar -C "$directory" -czf - "$kept" | split -b 15M - "$OUT/final.tar.gz.part-"
    echo "cat final.tar.gz.part-* | tar -xz gives the folder $kept"
    return "$status"
}

case ${1:-} in
    check) check ;;
    train)
        shift
        train "$@"
        ;;
    stage) run_stage "${2:-}" ;;
    *)
        echo "usage: runs/gpu.sh [--dry] check | train [RECIPE.toml [KEY=VALUE ...]]" >&2
        exit 2
        ;;
esac
