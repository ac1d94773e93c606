#!/usr/bin/env bash
# Memory and prefix hits over time; --help lists the arguments, figure_7/README.md says how to read it.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/python.sh" evaluation.figure_7.figure_7 "$@"
