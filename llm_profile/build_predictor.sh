#!/usr/bin/env bash
# Train the attention predictor of --enable-attn-prediction; arguments as of python -m llm_profile.build_predictor.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ ! -x "$project/.venv/bin/python" ]; then
  printf 'build_predictor.sh: error: no %s; run ./compile.sh --with predict first\n' "$project/.venv" >&2
  exit 1
fi
exec "$project/.venv/bin/python" -m llm_profile.build_predictor "$@"
