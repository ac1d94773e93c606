#!/usr/bin/env bash
# The error of every scenario against the real system, in one page; --help lists the arguments.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/python.sh" evaluation.summary "$@"
