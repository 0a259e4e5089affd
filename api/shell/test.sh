#!/usr/bin/env bash
# README.md is true: each command prints what stands under it. Usage: api/shell/test.sh [lossd]
set -euo pipefail
lossd=$(realpath "${1:-$(dirname "$0")/../../build/lossd}")
cd "$(dirname "$0")"
work=$(mktemp -d)
"$lossd" --listen 127.0.0.1:0 --isa scalar 2> "$work/log" &
pid=$!
trap 'kill "$pid" 2>/dev/null; rm -rf "$work"' EXIT
url=
for _ in $(seq 100); do
    url=$(sed -n 's/.* url=\(http[^ ]*\).*/\1/p' "$work/log")
    [ -z "$url" ] || break
    sleep 0.1
done
[ -n "$url" ] || { cat "$work/log" >&2; exit 1; }
passed=0
failed=0
command=
# The command so far printed what stands under it, or not.
check() {
    [ -n "$command" ] || return 0
    bash -c "${command//http:\/\/127.0.0.1:8080/$url}" > "$work/got" 2>&1 || true
    if diff "$work/want" "$work/got"; then
        passed=$((passed + 1))
    else
        echo "in README.md: $command"
        failed=$((failed + 1))
    fi
}
while IFS= read -r line; do
    case $line in
    '```'*) ;;
    '$ '*) check; command=${line#\$ }; : > "$work/want" ;;
    *) echo "$line" >> "$work/want" ;;
    esac
# shellcheck disable=SC2016 # backquotes are meant
done < <(sed -n '/^```console$/,/^```$/p' README.md)
check
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
