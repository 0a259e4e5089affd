#!/usr/bin/env bash
# Build all packages, list their sizes, then install each where nothing else is and use it from there.
#
#   docker/packages.sh [KIND]...        as root; without KIND all that there is a docker/packages/try-KIND.sh for
#
# It takes minutes and downloads what it installs.
set -euo pipefail
cd "$(dirname "$0")/.."
kinds=("$@")
if [ ${#kinds[@]} = 0 ]; then
    for script in docker/packages/try-*.sh; do
        kind=${script##*/try-}
        kinds+=("${kind%.sh}")
    done
fi
make "${kinds[@]/#/packages-}"
echo "packages"
find build/packages -maxdepth 1 -type f -printf '%s %f\n' | sort -k2 |
    awk '{printf "  %-48s %6.2f MB\n", $2, $1 / 1e6}'
failed=0
for kind in "${kinds[@]}"; do
    echo "$kind"
    "docker/packages/try-$kind.sh" || failed=1
done
exit $failed
