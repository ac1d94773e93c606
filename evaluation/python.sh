#!/usr/bin/env bash
# Run a module of evaluation/ in the project's environment, from whatever folder: python.sh MODULE [ARGUMENT...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/compile.sh" --with report >&2
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$root/.venv/bin/python" -m "$@"
