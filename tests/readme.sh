#!/usr/bin/env bash
# README.md is true: its C program prints what stands under it, its curl commands get the replies shown.
# Usage: tests/readme.sh build/release
set -euo pipefail
build=$1
work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$work"' EXIT

# block LANGUAGE: the lines of the fenced blocks in that language.
block() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" README.md | grep -v '^```'; }

flags=
case $build in *asan*) flags="-fsanitize=address,undefined" ;; *tsan*) flags="-fsanitize=thread" ;; esac
block c > "$work/example.c"
# shellcheck disable=SC2086 # $flags is several words
${CC:-cc} -std=c11 -Wall -Wextra $flags -Iinclude "$work/example.c" "$build/liblosskit.a" -lm -o "$work/example"
diff <(block text) <("$work/example")

"$build/lossd" --listen 127.0.0.1:0 2> "$work/log" &
pid=$!
for _ in $(seq 100); do
    url=$(sed -n 's/.* url=\(http[^ ]*\).*/\1/p' "$work/log")
    [ -z "$url" ] || break
    sleep 0.1
done
[ -n "$url" ] || { cat "$work/log" >&2; exit 1; }
commands=0
while IFS= read -r command && IFS= read -r reply; do
    command=${command#\$ }
    diff <(echo "$reply") <(bash -c "${command//http:\/\/127.0.0.1:8080/$url} -sS")
    commands=$((commands + 1))
done < <(block console)
kill "$pid"
wait "$pid"
pid=
[ "$commands" -gt 0 ]
echo "README.md: one C program and $commands curl commands do what it says"
