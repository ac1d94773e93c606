#!/usr/bin/env bash
# A GPU alone, attention in memory, sub-batches; --help lists the arguments, figure_10/README.md says how to read it.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/python.sh" evaluation.figure_10.figure_10 "$@"
