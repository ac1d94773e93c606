#!/usr/bin/env bash
# Check everything: formatting, lint, types and tests. Arguments go to pytest: ./test.sh -k scheduler
# With --sanitize first, the tests run once more on an engine built with ASan and UBSan (GCC or Clang).
# Exits with a status other than 0 if anything is wrong; pytest's summary comes last.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

failed=()

# Run a check; go on if it fails, but remember it.
check() {
  local name=$1
  shift
  printf 'test.sh: %s\n' "$name"
  "$@" || failed+=("$name")
}

# shellcheck disable=SC2329 # called through check
cxx_format() {
  find astra-sim/src astra-sim/ns3 -type f \( -name '*.h' -o -name '*.hpp' -o -name '*.cc' -o -name '*.cpp' \) -print0 |
    xargs -0 "$bin/clang-format" --dry-run -Werror
}

# The tests on an engine that checks its own memory accesses and arithmetic, less those that hardly use one.
# shellcheck disable=SC2329 # called through check
sanitized_tests() {
  local folder=build/sanitize compiler=${CXX:-c++} runtime
  PATH="$PWD/$bin:$PATH" cmake -S . -B "$folder" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DASTRA_SANITIZE=ON \
    -DPython_EXECUTABLE="$PWD/$bin/python" >/dev/null || return
  PATH="$PWD/$bin:$PATH" cmake --build "$folder" -j 2 >/dev/null || return
  # the C++ library too: without it the sanitizer finds no exceptions to intercept
  runtime="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)"
  ENGINE_MODULE=$(find "$folder" -maxdepth 1 -name '_engine*.so') LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0 \
    "$bin/python" -m pytest --ignore=tests/{llm_profile,dataset,evaluation,integrations} "$@"
}

sanitize=false
if [ "${1:-}" = --sanitize ]; then
  sanitize=true
  shift
fi

./compile.sh --dev
bin=.venv/bin
check "lint (ruff check)" "$bin/python" -m ruff check --quiet .
check "format (ruff format)" "$bin/python" -m ruff format --quiet --check --diff .
check "types (mypy)" "$bin/python" -m mypy --no-error-summary
check "C++ format (clang-format)" cxx_format
if [ ${#failed[@]} -gt 0 ]; then
  printf 'test.sh: FAILED, see above: %s\n' "${failed[@]}" >&2
fi
if $sanitize; then
  check "tests on a sanitized engine" sanitized_tests "$@"
fi
printf 'test.sh: tests (pytest)\n'
status=0
"$bin/python" -m pytest "$@" || status=$?
if [ ${#failed[@]} -gt 0 ] && [ "$status" -eq 0 ]; then
  status=1
fi
exit "$status"
