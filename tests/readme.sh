#!/usr/bin/env bash
# Check the examples of README.md: its console commands print their replies, its programs the text below them. Python
# and JavaScript are left out, which is said, where there is no NumPy or no node.
# Usage: tests/readme.sh build/release [LOSSD]
set -euo pipefail
build=$1
lossd=${2:-$build/lossd}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# block LANGUAGE: its program. printed LANGUAGE: the text below it.
block() { awk -v begin="\`\`\`$1" '$0 == begin {on = 1; next} $0 == "```" {on = 0} on' README.md; }
printed() {
    awk -v begin="\`\`\`$1" '$0 == begin {mine = 1; next} mine && $0 == "```text" {on = 1; next}
        on && $0 == "```" {exit} on' README.md
}

flags=
case $build in *asan*) flags="-fsanitize=address,undefined" ;; *tsan*) flags="-fsanitize=thread" ;; esac
block c > "$work/example.c"
# shellcheck disable=SC2086 # $flags is several words
${CC:-cc} -std=c11 -Wall -Wextra $flags -Iinclude "$work/example.c" "$build/liblosskit.a" -lm -o "$work/example"
diff <(printed c) <(${EMULATOR:-} "$work/example")

# A program that asks lossd becomes a command of the page, which is told where lossd listens.
cp README.md "$work/README.md"
# shellcheck disable=SC2016 # what expands is the command
add() { # LANGUAGE FILE COMMAND...
    block "$1" > "$work/$2"
    {
        printf '```console\n$ url=http://127.0.0.1:8080; sed -i "s,http://127[^\\"]*,$url," %s; ' "$work/$2"
        printf '%s ' "${@:3}" "$work/$2"
        printf '\n%s\n```\n' "$(printed "$1")"
    } >> "$work/README.md"
}
if /usr/bin/python3 -c 'import numpy' 2> "$work/why"; then
    add python example.py PYTHONPATH=api/python /usr/bin/python3
else
    echo "left out: there is no NumPy"
fi
if command -v node > "$work/why"; then
    mkdir "$work/node_modules"
    ln -s "$PWD/api/javascript" "$work/node_modules/lossd"
    add js example.mjs node
else
    echo "left out: there is no node"
fi
tests/console.sh "$lossd" "$work/README.md"
