#!/usr/bin/env bash
# Measure the layers of a model on this machine; flags go to python -m llm_profile.profiler (--help lists them).
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/profiler/start.sh" --only layers "$@"
