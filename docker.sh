#!/usr/bin/env bash
# Run the simulator in a container: ./docker.sh takes the arguments of main.py. The image is built from this
# checkout first, which takes a second when nothing has changed. Results appear in output/.
#
#   ./docker.sh --cluster-config cluster_config/single_node_single_instance.json \
#       --dataset dataset/example_trace.jsonl --output output/example.csv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
  printf 'docker.sh: error: %s\n' "$1" >&2
  exit 1
}

command -v docker >/dev/null ||
  fail "docker is not installed; see https://docs.docker.com/engine/install/ or use ./compile.sh, which needs no docker"
docker info --format '{{.ServerVersion}}' >/dev/null 2>&1 ||
  fail "the docker daemon does not answer; start it, or check that you may use it: docker info"

image=llmservingsim-hol
user_id=$(id -u)
run_as=()
if [ "$user_id" -eq 0 ]; then # root's output/ is not writable for the image's own user
  user_id=1000
  run_as=(--user 0:0)
fi
terminal=()
if [ -t 0 ] && [ -t 1 ]; then
  terminal=(--interactive --tty)
fi

mkdir -p output
docker build --quiet --build-arg "USER_ID=$user_id" --tag "$image" . >/dev/null ||
  fail "the image could not be built; the reason is above"
exec docker run --rm --init ${run_as[@]+"${run_as[@]}"} ${terminal[@]+"${terminal[@]}"} \
  --volume "$PWD/output:/app/output" "$image" "$@"
