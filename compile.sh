#!/usr/bin/env bash
# Build the simulator into .venv beside this script. Safe to run again: unchanged sources take a second, and a
# build that was interrupted starts over. Python sources are used in place and need no build.
set -euo pipefail

usage() {
  cat <<'END'
usage: ./compile.sh [--dev] [--with EXTRA[,EXTRA...]] [--ns3]

  --dev          also install the tools that ./test.sh needs
  --with EXTRA   also install optional parts: profile, silicon, predict, report, cluster (see pyproject.toml)
  --ns3          also build the packet network of --network-backend ns3; needs ns-3 (see docs/ns3.md)

Environment:
  PYTHON   the Python, 3.11 or newer, to build .venv with (default: the newest one found)
  CXX      the C++20 compiler (default: c++, g++ or clang++)
  NS3_ROOT an ns-3 of your own, with include/ and lib/ (default: the one of .venv or of the system)
END
}

step() { printf 'compile.sh: %s\n' "$1"; }

fail() {
  printf 'compile.sh: error: %s\n' "$1" >&2
  exit 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 or newer"
    printf '%s\n' "$PYTHON"
    return
  fi
  local candidate
  for candidate in python3.14 python3.13 python3.12 python3.11 python3 python; do
    if is_new_enough "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "no Python of version 3.11 or newer found; install one and run this again
  Debian, Ubuntu:  sudo apt install python3 python3-venv
  macOS:           brew install python
  or name one:     PYTHON=/path/to/python3.12 ./compile.sh"
}

compiles_cxx20() {
  printf '#include <bit>\n#include <concepts>\n#include <span>\nint main() { return 0; }\n' |
    "$1" -std=c++20 -fsyntax-only -x c++ - >/dev/null 2>&1
}

find_compiler() {
  if [ -n "${CXX:-}" ]; then
    compiles_cxx20 "$CXX" || fail "CXX=$CXX does not compile C++20"
    printf '%s\n' "$CXX"
    return
  fi
  local candidate
  for candidate in c++ g++ clang++; do
    if compiles_cxx20 "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "no C++20 compiler found (GCC 10, Clang 13 or newer); install one and run this again
  Debian, Ubuntu:  sudo apt install g++
  Fedora:          sudo dnf install gcc-c++
  macOS:           xcode-select --install"
}

# Use .venv if it works and is of the Python asked for, or make it anew.
prepare_venv() {
  local python
  if is_new_enough "$venv_python" && "$venv_python" -m pip --version >/dev/null 2>&1; then
    if [ -z "${PYTHON:-}" ] || [ "$(base_of "$venv_python")" = "$(base_of "$PYTHON")" ]; then
      return
    fi
  fi
  python=$(find_python)
  step "making .venv with $("$python" --version)"
  "$python" -m venv --clear .venv || fail "$python cannot make a virtual environment
  Debian, Ubuntu:  sudo apt install python3-venv"
}

base_of() { "$1" -c 'import sys; print(sys.base_prefix, sys.version)' 2>/dev/null; }

# Everything that the installed files are made from, in one hash.
sources_hash() {
  "$venv_python" - "$1" <<'END'
import hashlib, pathlib, sys

paths = [pathlib.Path(name) for name in ("pyproject.toml", "CMakeLists.txt", "compile.sh")]
paths += sorted(path for path in pathlib.Path("astra-sim/src").rglob("*") if path.is_file())
digest = hashlib.sha256(f"{pathlib.Path.cwd()}\0{sys.version}\0{sys.argv[1]}\0".encode())
for path in paths:
    content = path.read_bytes()
    digest.update(f"{path.as_posix()}\0{len(content)}\0".encode() + content)
# an installed package knows its modules by name, so a module that has moved is found only after another install
for package in ("inference_serving", "llm_profile", "astra-sim/astra_sim"):
    for path in sorted(pathlib.Path(package).rglob("*.py")):
        digest.update(f"{path.as_posix()}\0".encode())
print(digest.hexdigest())
END
}

# The requested extras and those installed before, sorted, one space between.
all_extras() {
  "$venv_python" - "$stamp" "$1" <<'END'
import pathlib, sys, tomllib

stamp, requested = pathlib.Path(sys.argv[1]), set(sys.argv[2].replace(",", " ").split())
with open("pyproject.toml", "rb") as file:
    known = set(tomllib.load(file)["project"]["optional-dependencies"])
if unknown := sorted(requested - known):
    sys.exit(f"compile.sh: error: no extra is named {unknown[0]!r}; there are {', '.join(sorted(known))}")
lines = stamp.read_text().splitlines() if stamp.exists() else []
installed = {name for line in lines if line.startswith("extras: ") for name in line.split()[1:]}
print(*sorted(requested | (installed & known)))
END
}

build_requirements() {
  "$venv_python" - <<'END'
import tomllib

with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], "cmake>=3.18", "ninja", sep="\n")
END
}

install() {
  local requirements=() requirement
  while IFS= read -r requirement; do requirements+=("$requirement"); done < <(build_requirements)
  step "installing the build tools"
  "$venv_python" -m pip install --quiet --disable-pip-version-check "${requirements[@]}" ||
    fail "the build tools could not be installed; see above"
  step "building and installing the simulator${1:+ with: $1} (about a minute the first time)"
  local extras=${1// /,}
  CXX=$2 PATH="$PWD/.venv/bin:$PATH" "$venv_python" -m pip install --quiet --disable-pip-version-check \
    --no-build-isolation -e ".${extras:+[$extras]}" || fail "the build failed; the reason is above"
  "$venv_python" -c 'import astra_sim, inference_serving' || fail "the build succeeded but does not load; see above"
}

main() {
  local requested="" ns3=""
  while [ $# -gt 0 ]; do
    case $1 in
      --dev) requested="$requested dev" ;;
      --with)
        [ $# -gt 1 ] || fail "--with needs the name of an extra; ./compile.sh --help lists them"
        requested="$requested $2"
        shift
        ;;
      --ns3) ns3=yes ;;
      -h | --help) usage; return ;;
      *) fail "unknown argument '$1'; ./compile.sh --help lists what there is" ;;
    esac
    shift
  done
  cd "$(dirname "${BASH_SOURCE[0]}")"
  local compiler extras hash
  compiler=$(find_compiler)
  prepare_venv
  extras=$(all_extras "$requested")
  hash=$(sources_hash "$compiler")
  if [ "$(cat "$stamp" 2>/dev/null)" = "$(printf 'sources: %s\nextras: %s' "$hash" "$extras")" ]; then
    step "up to date"
  else
    rm -f "$stamp"
    install "$extras" "$compiler"
    printf 'sources: %s\nextras: %s\n' "$hash" "$extras" >"$stamp.new"
    mv "$stamp.new" "$stamp"
    step "done; try ./run.sh or .venv/bin/python main.py --help"
  fi
  if [ -n "$ns3" ]; then CXX=$compiler astra-sim/ns3/build.sh; fi
}

venv_python=.venv/bin/python
stamp=.venv/compile-stamp
main "$@"
