#!/usr/bin/env bash
# Power of a server and its energy by component; --help lists the arguments, figure_6/README.md says how to read it.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/python.sh" evaluation.figure_6.figure_6 "$@"
