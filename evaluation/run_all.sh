#!/usr/bin/env bash
# Every figure, one after the other; --help lists the arguments.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/python.sh" evaluation.run_all "$@"
