#!/usr/bin/env bash
# Install the packages for npm into an empty folder, without a network, and use them as the README does: serve by npx, and
# run its example.
# Usage: docker/packages/try-npm.sh [build/packages/lossd-*.tgz]
set -euo pipefail
root=$(realpath "$(dirname "$0")/../..")
[ $# -gt 0 ] || set -- "$root"/build/packages/lossd-*.tgz
packages=()
for package in "$@"; do
    packages+=("$(realpath "$package")")
done
readme=$root/api/javascript/README.md
work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill -- "-$pid" 2>/dev/null; rm -rf "$work"' EXIT
cd "$work"
export npm_config_cache="$work/cache"
echo '{ "private": true, "type": "module" }' > package.json
npm install --silent --offline --no-audit --no-fund "${packages[@]}"
npx --offline lossd version

set -m # a group of its own, as in a terminal: npx does not hand a signal on
npx --offline lossd --listen 127.0.0.1:0 2> log &
pid=$!
url=
for _ in $(seq 100); do
    url=$(sed -n 's/.* url=\(http[^ ]*\).*/\1/p' log)
    [ -z "$url" ] || break
    sleep 0.1
done
[ -n "$url" ] || { cat log >&2; exit 1; }
# shellcheck disable=SC2016 # backquotes are meant
sed -n '/^```js$/,/^```$/p' "$readme" | sed '1d;$d' | sed "s,http://127.0.0.1:8080,$url," > example.js
node example.js
kill -- "-$pid"
wait "$pid" || true
pid=
echo "$*: used, with node $(node --version)"
