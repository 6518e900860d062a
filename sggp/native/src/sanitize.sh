#!/bin/sh
# Builds tests/native/sanitize*.cpp with the engine under a sanitizer and runs it. From the root of the repository:
#   sggp/native/src/sanitize.sh [sanitizers] [folder]     address,undefined by default; "thread" is the other one
set -eu
sanitizers=${1:-address,undefined}
out=${2:-build/sanitize}
src=$(dirname "$0")
root=$src/../../..
cxx=${CXX:-c++}
flags="-std=c++17 -O1 -g -ffp-contract=off -fno-math-errno -fno-trapping-math -w -pthread -I$src"
flags="$flags -fsanitize=$sanitizers -fno-sanitize-recover=all -fno-omit-frame-pointer"
mkdir -p "$out"
macros=
case $(uname -m) in
x86_64 | amd64)
  macros="-DSGGP_WITH_AVX2 -DSGGP_WITH_AVX512"
  $cxx $flags -mavx2 -mfma -c "$src/isa_avx2.cpp" -o "$out/isa_avx2.o"
  $cxx $flags -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -c "$src/isa_avx512.cpp" -o "$out/isa_avx512.o"
  ;;
esac
for path in "$src"/isa_portable.cpp "$src"/dispatch.cpp "$src"/parallel.cpp "$src"/api_*.cpp; do
  $cxx $flags $macros -c "$path" -o "$out/$(basename "$path" .cpp).o"
done
for path in "$root"/tests/native/sanitize*.cpp; do
  $cxx $flags -c "$path" -o "$out/$(basename "$path" .cpp).o"
done
$cxx $flags "$out"/*.o -o "$out/sanitize"
"$out/sanitize"
