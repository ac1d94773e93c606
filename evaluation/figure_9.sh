#!/usr/bin/env bash
# A TPU-v6e-1: throughput and errors; --help lists the arguments, figure_9/README.md says how to read it.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/python.sh" evaluation.figure_9.figure_9 "$@"
