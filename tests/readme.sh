#!/usr/bin/env bash
# Check the examples of README.md: its C program prints the text below it, and its curl commands print their replies.
# Usage: tests/readme.sh build/release
set -euo pipefail
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# block LANGUAGE: the lines of the fenced blocks in that language.
block() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" README.md | grep -v '^```'; }

flags=
case $build in *asan*) flags="-fsanitize=address,undefined" ;; *tsan*) flags="-fsanitize=thread" ;; esac
block c > "$work/example.c"
# shellcheck disable=SC2086 # $flags is several words
${CC:-cc} -std=c11 -Wall -Wextra $flags -Iinclude "$work/example.c" "$build/liblosskit.a" -lm -o "$work/example"
diff <(block text) <("$work/example")

tests/console.sh "$build/lossd" README.md
