#!/usr/bin/env bash
# Fresh results against the snapshots in artifacts/: compare.sh [5 6 | figure_5 ...]; --help lists the arguments.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/python.sh" evaluation.compare "$@"
