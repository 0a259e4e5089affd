#!/usr/bin/env bash
# Run each command in the console blocks of a page against a lossd of its own, and compare what it prints with the
# lines below it. In the commands `lossd` is the program under test; carriage returns at line ends are ignored.
# Usage: tests/console.sh LOSSD PAGE
set -euo pipefail
lossd=$1
page=$2
work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$work"' EXIT
export lossd
: > "$work/log"
"$lossd" --listen 127.0.0.1:0 2> "$work/log" &
pid=$!
for _ in $(seq 100); do
    url=$(sed -n 's/.* url=\(http[^ ]*\).*/\1/p' "$work/log")
    [ -z "$url" ] || break
    sleep 0.1
done
[ -n "$url" ] || { cat "$work/log" >&2; exit 1; }
passed=0
failed=0
command=
# Run the command, and compare what it prints with the lines below it.
check() {
    [ -n "$command" ] || return 0
    # Commands may fail: only their output is compared.
    # shellcheck disable=SC2016 # the inner shell expands it
    bash -c 'curl() { command curl -sS "$@"; }; lossd() { "$lossd" "$@"; }; '"${command//http:\/\/127.0.0.1:8080/$url}" \
        > "$work/got" 2>&1 || true
    if diff --strip-trailing-cr "$work/want" "$work/got"; then
        passed=$((passed + 1))
    else
        echo "in $page: $command"
        failed=$((failed + 1))
    fi
}
# shellcheck disable=SC2016 # backquotes are meant
while IFS= read -r line; do
    case $line in
    '```'*) ;;
    '$ '*) check; command=${line#\$ }; : > "$work/want" ;;
    *) echo "$line" >> "$work/want" ;;
    esac
done < <(sed -n '/^```console$/,/^```$/p' "$page")
check
kill "$pid"
wait "$pid"
pid=
echo "$page: $passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
