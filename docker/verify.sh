#!/usr/bin/env bash
# Build the image and run it as it is to be run: not root, read-only root, no capabilities, little memory. Print
# what was measured; end with 1 if something is not as it should be.
#
#   docker/verify.sh          as root, with Debian's buildah, podman, runc, debootstrap and curl
#
# The base image is made by debootstrap from where this machine's apt has Debian 12 from, or from MIRROR: no image
# registry is asked. All that this makes lies in one folder under TMPDIR (some 2 GB) and is removed at the end.
# STORAGE_DRIVER=vfs where overlay does not work.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ready_max_ms=50 beside_c_max=25000000 user=65532
# shellcheck disable=SC2016 # apt fills in what stands in the quotes
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | sed -n 1p)}
if [ -z "$mirror" ]; then
    echo "verify.sh: apt knows no place that has Debian 12 (bookworm); set MIRROR to one" >&2
    exit 1
fi
work=$(mktemp -d "${TMPDIR:-/var/tmp}/lossd-image.XXXXXX")
failed=0

store() { "$1" --root "$work/store" --runroot "$work/run" "${@:2}"; }
pod() { store podman --runtime runc --cgroup-manager cgroupfs --events-backend file "$@"; }

clean_up() {
    pod rm -f -a >/dev/null 2>&1 || true
    store buildah rm -a >/dev/null 2>&1 || true
    umount "$work/store/overlay" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

figure() { printf '  %-44s %s\n' "$1" "$2"; }
must() { # what, command...
    if "${@:2}" >"$work/said" 2>&1; then
        figure "$1" yes
    else
        figure "$1" "NO: ${*:2}: $(head -c 500 "$work/said")"
        failed=1
    fi
}
bytes() { find "$@" -type f -printf '%s\n' | awk '{sum += $1} END {print sum + 0}'; }
megabytes() { awk -v bytes="$1" 'BEGIN {printf "%.1f MB", bytes / 1e6}'; }
since() { echo $((${EPOCHREALTIME/./} - ${1/./})); }

echo "building"
debootstrap --variant=minbase bookworm "$work/base" "$mirror" >"$work/debootstrap.log"
base=$(store buildah from scratch)
store buildah add -q "$base" "$work/base" / >/dev/null
store buildah commit -q --rm "$base" docker.io/library/debian:bookworm-slim >/dev/null
rm -rf "$work/base"
version=$(sed -n 's/^#define LK_VERSION "\(.*\)"/\1/p' include/losskit.h)
if ! store buildah build --isolation chroot --format docker --layers --pull=never -f docker/Dockerfile \
    --build-arg VERSION="$version" --build-arg REVISION="$(git rev-parse HEAD)" -t lossd . \
    >"$work/build.log" 2>&1; then
    tail -20 "$work/build.log" >&2
    exit 1
fi

echo "image"
root=$(store buildah mount "$(store buildah from --pull=never lossd)")
store buildah push -q lossd "oci:$work/oci" >/dev/null
store buildah push -q --disable-compression lossd "dir:$work/layers" >/dev/null
for layer in $(pod inspect lossd --format '{{range .RootFS.Layers}}{{.}} {{end}}'); do
    example=$(tar -tf "$work/layers/${layer#sha256:}" | grep -v '/$' | tail -1)
    figure "layer of /$example" "$(megabytes "$(stat -c %s "$work/layers/${layer#sha256:}")")"
done
all=$(bytes "$root")
of_c=$(bytes "$root" \( -name 'ld-linux*' -o -name libc.so.6 -o -name libm.so.6 \))
figure "unpacked, and of it the C library" "$(megabytes "$all"), $(megabytes "$of_c")"
figure "compressed" "$(megabytes "$(bytes "$work/oci/blobs")")"
must "at most 25 MB beside the C library" test $((all - of_c)) -le $beside_c_max
must "no shell" test ! -e "$root/bin/sh"
must "label and lossd name the same version" \
    test "lossd $(pod inspect lossd --format '{{index .Labels "org.opencontainers.image.version"}}')" = \
    "$(chroot "$root" /usr/bin/lossd version)"

# lossd alone, without a runtime around it, until it first says that it is ready. Each time it is asked counts in.
echo "start"
install -d -o $user "$root/start"
socket=unix:/start/lossd.sock
as_user=(chroot --userspec="$user:$user" "$root" /usr/bin/lossd)
for ((run = 0; run < 15; run++)); do
    rm -f "$root/start/lossd.sock"
    begun=$EPOCHREALTIME
    "${as_user[@]}" --listen $socket 2>>"$work/start.log" &
    until "${as_user[@]}" health --url $socket 2>>"$work/start.log"; do
        test "$(since "$begun")" -lt 5000000
    done
    since "$begun" >>"$work/starts"
    kill $!
    wait $!
done
median=$(sort -n "$work/starts" | sed -n 8p)
figure "until ready, median of 15" "$((median / 1000)).$((median % 1000 / 100)) ms"
must "ready within $ready_max_ms ms" test "$median" -le $((ready_max_ms * 1000))

# Its own network, of which only the loopback is there: what is asked is asked from within.
echo "run"
budget=192 limit=256 # MiB
pod run -d --name lossd --network none --read-only --cap-drop all --security-opt no-new-privileges \
    --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 --memory ${limit}m -e LOSSD_MEMORY_BUDGET=${budget}MiB \
    lossd >"$work/pod.log" 2>&1 # without systemd podman complains that it cannot ask for health by itself
pid=$(pod inspect lossd --format '{{.State.Pid}}')
ask() { nsenter -t "$pid" -n curl -sS --fail --max-time 60 -o /dev/null "$@"; }
memory() { awk -v name="$1:" '$1 == name {printf "%.1f MB", $2 * 1024 / 1e6}' "/proc/$pid/smaps_rollup"; }
status() { awk -v name="$1:" '$1 == name {print $2}' "/proc/$pid/status"; }
healthy() { pod healthcheck run lossd; }
must "healthy by its own HEALTHCHECK" healthy
must "not root" test "$(status Uid)" = $user
must "no capabilities, no new privileges" test "$(status CapBnd) $(status NoNewPrivs)" = "0000000000000000 1"
must "the root cannot be written" grep -q ' / [^ ]* ro,' "/proc/$pid/mounts"
figure "idle: resident, of it its own" "$(memory Rss), $(memory Private_Dirty)"
must "evaluates" ask -d '{"inputs":{"logits":[[0.2,0.4,0.4]],"targets":[2]}}' \
    http://127.0.0.1:8080/v1/losses/cross_entropy

# Bodies of 32 MiB, sixteen at a time: more than the budget holds. Some are refused, none ends it.
header='{"a":{"dtype":"F32","shape":[4194304],"data_offsets":[0,16777216]},'
header+='"b":{"dtype":"F32","shape":[4194304],"data_offsets":[16777216,33554432]}}'
{ printf "\\x$(printf %x ${#header})\0\0\0\0\0\0\0%s" "$header" && head -c 33554432 /dev/zero; } >"$work/body"
for ((client = 0; client < 16; client++)); do
    nsenter -t "$pid" -n curl -s --max-time 60 -o /dev/null -w '%{http_code}\n' -H 'Expect:' --data-binary "@$work/body" \
        -H 'Content-Type: application/x-safetensors' http://127.0.0.1:8080/v1/losses/mse >"$work/status.$client" &
done
wait
figure "more than the budget at once: replies" "$(cat "$work"/status.* | sort | uniq -c | xargs)"
figure "highest memory, of $limit MiB" "$(awk '/^VmHWM/ {printf "%.0f MiB", $2 / 1024}' "/proc/$pid/status")"
must "answered with 200 or 503" test "$(cat "$work"/status.* | grep -cE '^(200|503)$')" = 16
must "still healthy" healthy

begun=$EPOCHREALTIME
pod stop -t 10 lossd >>"$work/pod.log" 2>&1
figure "stopped after" "$(($(since "$begun") / 1000)) ms"
must "exit status 0" test "$(pod inspect lossd --format '{{.State.ExitCode}}')" = 0
exit $failed
