#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Logits of a small trained language model through lossd, as safetensors and as JSON; its loss and
# gradient beside PyTorch's.
# Usage: tests/data/demo.sh build/lossd
set -euo pipefail
lossd=$(realpath -- "$1")
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
data=tests/data
rows=4
work=
stopped=

# stop: end the server, the only background job, with SIGTERM; its exit status.
stop() {
    local status=0
    [ -n "${!-}" ] && [ -z "$stopped" ] || return 0
    kill -TERM "$!" 2> /dev/null || true
    wait "$!" || status=$?
    stopped=1
    return "$status"
}

# shellcheck disable=SC2317 # the trap calls it
finish() {
    stop || true
    [ -z "$work" ] || rm -rf -- "$work"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
work=$(mktemp -d)

# shown COMMAND...: print the command as one would type it, less the temporary directory; run it.
shown() {
    local word line='$'
    for word; do
        case $word in
            *[!A-Za-z0-9_./:@=-]*) line+=" '$word'" ;;
            *) line+=" $word" ;;
        esac
    done
    printf '%s\n' "${line//"$work/"/}"
    "$@"
}

# timeout ends a lossd that hangs. With --foreground it hands SIGTERM on once, not twice; its status
# is lossd's.
: > "$work/log"
timeout --foreground --kill-after=10 120 "$lossd" --listen 127.0.0.1:0 2> "$work/log" &
url=
for _ in {1..100}; do
    url=$(sed -n 's|.* url=\(http://[^ ]*\).*|\1|p' "$work/log")
    if [ -n "$url" ] || ! kill -0 "$!" 2> /dev/null; then break; fi
    sleep 0.1
done
if [ -z "$url" ]; then
    echo "demo.sh: lossd does not say where it listens; its log:" >&2
    cat -- "$work/log" >&2
    exit 1
fi

failed=0
post=(curl -sS --fail-with-body --max-time 30)

# reply FILE: what lossd answered, where it is an error in place of numbers.
reply() {
    [ ! -f "$1" ] || cat -- "$1" >&2
    failed=1
}

echo "All rows, as safetensors:"
if shown "${post[@]}" -H 'Content-Type: application/x-safetensors' \
    --data-binary "@$data/gpl3.safetensors" -o "$work/reply.safetensors" \
    "$url/v1/losses/cross_entropy"; then
    shown python3 "$data/compare.py" show "$work/reply.safetensors" \
        "$data/gpl3.pytorch.safetensors" || failed=1
else
    reply "$work/reply.safetensors"
fi

echo
echo "The first $rows rows, as JSON:"
echo "$ python3 $data/compare.py json-part $data/gpl3.safetensors $rows > request.json"
python3 "$data/compare.py" json-part "$data/gpl3.safetensors" "$rows" > "$work/request.json"
if shown "${post[@]}" -H 'Content-Type: application/json' --data-binary "@$work/request.json" \
    -o "$work/reply.json" "$url/v1/losses/cross_entropy"; then
    shown python3 "$data/compare.py" show-json "$work/reply.json" "$data/gpl3.safetensors" \
        "$rows" || failed=1
else
    reply "$work/reply.json"
fi

status=0
stop || status=$?
if [ "$status" -ne 0 ]; then
    echo "demo.sh: lossd ended with status $status after SIGTERM; its log:" >&2
    cat -- "$work/log" >&2
    failed=1
fi
exit "$failed"
