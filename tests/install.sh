#!/usr/bin/env bash
# Install a build in a folder of its own, and use it from there as its users do: C and C++ by pkg-config and by
# CMake, linked with the shared and the static library; the manual page; completion in bash. Left out, and said so,
# is what needs a program that is not there.
# Usage: FLAVOUR=release tests/install.sh build/release
set -euo pipefail
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix

has() { command -v "$1" >/dev/null || { echo "left out: there is no $1"; return 1; }; }
has "${CXX:-c++}" && cxx=${CXX:-c++} || cxx=

flags=
case $build in *asan*) flags="-fsanitize=address,undefined" ;; *tsan*) flags="-fsanitize=thread" ;; esac
make_() { env -u MAKEFLAGS -u MAKELEVEL make -s B="$build" PREFIX="$prefix" "$@" >"$work/log"; }
make_ install
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
version=$(sed -n 's/^#define LK_VERSION "\(.*\)"/\1/p' include/losskit.h)
[ "$(pkg-config --modversion losskit)" = "$version" ]

# The example of README.md is C; the same in C++ has its own ways to fill a struct.
# shellcheck disable=SC2016 # backquotes are meant
sed -n '/^```c$/,/^```$/p' README.md | grep -v '^```' >"$work/one.c"
cat >"$work/two.cc" <<'END'
#include <cstdio>
#include <losskit.h>

int main()
{
    float logits[] = {0.2f, 0.4f, 0.4f}, loss = 0, grad[3] = {};
    int64_t targets[] = {2};
    lk_error error;
    lk_named inputs[] = {{"logits", lk_matrix(LK_F32, logits, 1, 3)},
                         {"targets", lk_vector(LK_I64, targets, 1)}, {}};
    lk_named outputs[] = {{"loss", lk_scalar(LK_F32, &loss)},
                          {"grad.logits", lk_matrix(LK_F32, grad, 1, 3)}, {}};
    if (lk_evaluate("cross_entropy", nullptr, inputs, outputs, &error) != LK_OK)
        return std::fprintf(stderr, "%s\n", error.text), 1;
    std::printf("%.6f  %.6f %.6f %.6f\n", loss, grad[0], grad[1], grad[2]);
}
END
# shellcheck disable=SC2046,SC2086 # several words
{
    ${CC:-cc} $flags "$work/one.c" $(pkg-config --cflags --libs losskit) -o "$work/shared"
    ${CC:-cc} $flags "$work/one.c" $(pkg-config --cflags losskit) "$prefix/lib/liblosskit.a" -lm -o "$work/static"
    [ -z "$cxx" ] || $cxx -std=c++11 -Wall -Wextra -Werror $flags "$work/two.cc" $(pkg-config --cflags --libs losskit) -o "$work/cc"
}
${EMULATOR:-} "$work/shared" >"$work/want"
for program in static ${cxx:+cc}; do
    diff "$work/want" <(${EMULATOR:-} "$work/$program")
done

if [ -n "$cxx" ] && has cmake; then
    cat >"$work/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.13)
project(try C CXX)
find_package(losskit ${ASK} REQUIRED)
add_executable(one one.c)
target_link_libraries(one losskit::losskit)
add_executable(two two.cc)
target_link_libraries(two losskit::static)
END
    configure() { cmake -S "$work" -B "$work/$1" -DASK="$1" -DCMAKE_PREFIX_PATH="$prefix" "${@:2}" >"$work/log" 2>&1; }
    minor=${version%.*}
    configure "$minor" -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" || { cat "$work/log"; exit 1; }
    cmake --build "$work/$minor" >"$work/log" || { cat "$work/log"; exit 1; }
    for program in one two; do
        diff "$work/want" <("$work/$minor/$program")
    done
    for other in "$((${version%%.*} + 1))" "${version%%.*}.$((${minor#*.} + 1))" "$minor.$((${version##*.} + 1))"; do
        if configure "$other"; then
            echo "CMake takes $version for $other"
            exit 1
        fi
    done
fi

if has man; then
    man -l --warnings "$prefix/share/man/man1/lossd.1" 2>"$work/warnings" >"$work/page"
    [ ! -s "$work/warnings" ] || { cat "$work/warnings"; exit 1; }
    grep -q LOSSD_MAX_BODY "$work/page"
fi

# complete WORD...: what the last word may become.
complete_words() {
    bash -c 'set -e; . "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _lossd; echo "${COMPREPLY[@]}"' _ \
        "$prefix/share/bash-completion/completions/lossd" "$@"
}
[ "$(complete_words lossd desc)" = describe ]
[ "$(complete_words lossd eval cross_)" = cross_entropy ]
[ "$(complete_words lossd --log-l)" = --log-level ]
[ "$(complete_words lossd serve --log-format j)" = json ]
[ "$(complete_words lossd describe huber --j)" = --json ]
[ -z "$(complete_words lossd serve --max-body 1)" ]

make_ uninstall
[ -z "$(find "$prefix" -not -type d)" ] || { find "$prefix" -not -type d; exit 1; }
echo "installed, used, removed"
