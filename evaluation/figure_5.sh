#!/usr/bin/env bash
# Throughput over time on A6000 and H100; --help lists the arguments, figure_5/README.md says how to read it.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/python.sh" evaluation.figure_5.figure_5 "$@"
