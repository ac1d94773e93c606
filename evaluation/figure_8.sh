#!/usr/bin/env bash
# Errors and simulation time beside other simulators; --help lists the arguments, figure_8/README.md says how to read it.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/python.sh" evaluation.figure_8.figure_8 "$@"
