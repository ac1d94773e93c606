#!/usr/bin/env bash
# Install the extra "profile" if it is missing and start the profiler; paths in the flags are of the caller's folder.
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
if ! .venv/bin/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' 2>/dev/null; then
  ./compile.sh --with profile
fi
cd "$here"
exec "$root/.venv/bin/python" -m llm_profile.profiler --output "$root/llm_profile/perf_models" "$@"
