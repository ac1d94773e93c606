#!/usr/bin/env bash
# Head-of-line blocking, from a fresh clone to tables and figures. Safe to interrupt and run again: finished runs stay.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

usage() {
  cat <<'HELP'
usage: evaluation/hol/run_hol.sh [--full] [--output FOLDER] [--processes N] [--workload FILE.jsonl]...

  --full            hours instead of minutes: more requests, seeds, workloads, clusters (full.yaml, not small.yaml)
  --output FOLDER   where results go (default: output/hol/small or output/hol/full)
  --processes N     runs at a time (default: one a core)
  --workload FILE   also serve a trace of your own (see dataset/README.md) under the main policies
HELP
}

size=small output="" sweep_flags=() workload_flags=()
while [ $# -gt 0 ]; do
  case $1 in
    --full) size=full ;;
    --output | --processes | --workload)
      if [ $# -lt 2 ]; then
        printf 'run_hol.sh: error: %s needs a value\n' "$1" >&2
        exit 2
      fi
      case $1 in
        --output) output=$2 ;;
        --processes) sweep_flags+=("$1" "$2") ;;
        --workload) workload_flags+=("$1" "$2") ;;
      esac
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      printf "run_hol.sh: error: unknown argument '%s'; --help lists what there is\n" "$1" >&2
      exit 2
      ;;
  esac
  shift
done
output=${output:-output/hol/$size}
common=("evaluation/hol/$size.yaml" --output "$output" ${workload_flags[@]+"${workload_flags[@]}"})

./compile.sh --with report
status=0
.venv/bin/python -m evaluation.hol.sweep "${common[@]}" ${sweep_flags[@]+"${sweep_flags[@]}"} || status=$?
if [ "$status" -gt 1 ]; then exit "$status"; fi
.venv/bin/python -m evaluation.hol.analyze "${common[@]}"
exit "$status"
