#!/usr/bin/env bash
# Build build/ns3/astra_ns3, the packet network in ns-3; ./compile.sh --ns3 calls this. Exit code 1: no ns-3, or the
# build failed. ns-3 is taken from NS3_ROOT (a folder with include/ and lib64/ or lib/), else from the wheel in
# .venv, else from the system.
set -euo pipefail

step() { printf 'compile.sh: %s\n' "$1"; }

fail() {
  printf 'compile.sh: error: %s\n' "$1" >&2
  exit 1
}

wheel_root() {
  [ -x .venv/bin/python ] || return 0
  .venv/bin/python - <<'END_PYTHON'
import importlib.metadata

for wheel in importlib.metadata.distributions(name="ns3"):
    print(wheel.locate_file("ns3"))
    break
END_PYTHON
}

# The compiler flags of one ns-3, in the array `flags`; its version in `version`.
use_root() {
  local root=$1 library folder found="" suffix
  for folder in "$root/lib64" "$root/lib" "$root/lib/$("$compiler" -dumpmachine)"; do
    for library in "$folder"/libns3*-core.so "$folder"/libns3*-core-*.so; do
      [ -e "$library" ] && found=$library && break 2
    done
  done
  [ -n "$found" ] && [ -e "$root/include/ns3/core-module.h" ] ||
    fail "there is no ns-3 in $root: include/ns3/core-module.h and lib64/libns3*-core*.so are needed"
  library=${found##*/libns3}
  version=${library%%-core*}
  suffix=${library#*-core}
  suffix=${suffix%.so}
  flags=()
  case $root in /usr | /usr/local) ;; *) flags=(-isystem "$root/include") ;; esac
  flags+=(-L"${found%/*}" -Wl,-rpath,"${found%/*}")
  for library in point-to-point network core; do flags+=("-lns3$version-$library$suffix"); done
  if [ -n "$version" ]; then version=3$version; else version=$(version_of "$found"); fi
}

use_system() {
  local library
  printf '#include <ns3/point-to-point-module.h>\nint main() { return 0; }\n' |
    "$compiler" -std=c++20 -fsyntax-only -x c++ - >/dev/null 2>&1 || fail "ns-3 is not installed; install it and run this again
  Debian, Ubuntu:  sudo apt-get install libns3-dev
  any Linux:       .venv/bin/python -m pip install --no-deps ns3==3.44.post0
  or name one:     NS3_ROOT=/path/to/ns-3/build ./compile.sh --ns3"
  flags=()
  for library in point-to-point network core; do flags+=("-lns3-$library"); done
  version=$(version_of "$("$compiler" -print-file-name=libns3-core.so)")
}

# Debian's libns3-core.so is a link to libns3-core.so.37.
version_of() {
  local file
  file=$(readlink -f "$1")
  file=${file##*.so}
  printf '3%s\n' "$file"
}

up_to_date() {
  [ -x "$target" ] && [ "$(cat "$target.flags" 2>/dev/null)" = "$compiler ${flags[*]}" ] &&
    [ -z "$(find astra-sim/ns3 -type f -newer "$target")" ] && "$target" --version >/dev/null 2>&1
}

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
compiler=${CXX:-g++}
target=build/ns3/astra_ns3
root=${NS3_ROOT:-$(wheel_root)}
if [ -n "$root" ]; then use_root "$root"; else use_system; fi
if up_to_date; then
  step "astra_ns3 is up to date (ns-3 $version)"
  exit 0
fi
step "building astra_ns3 with ns-3 $version"
mkdir -p build/ns3
"$compiler" -std=c++20 -O2 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror \
  -DASTRA_NS3_VERSION="\"$version\"" astra-sim/ns3/*.cc -o "$target.new" "${flags[@]}" ||
  fail "astra_ns3 could not be built; the reason is above"
"./$target.new" --version >/dev/null || fail "astra_ns3 was built but does not start; see above"
mv "$target.new" "$target"
printf '%s\n' "$compiler ${flags[*]}" >"$target.flags"
step "done: $target"
