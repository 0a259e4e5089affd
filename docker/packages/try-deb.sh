#!/usr/bin/env bash
# Install the Debian packages in a Debian 12 that has nothing else, and use them: the service, started by the systemd
# of that Debian, by README.md's first request; the development files by README.md's C program.
#
#   docker/packages/try-deb.sh          as root, with debootstrap and iproute2
#
# Packages come from where this machine's apt has Debian 12 from, or from MIRROR.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck disable=SC2016 # apt fills in what stands in the quotes
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | sed -n 1p)}
work=$(mktemp -d "${TMPDIR:-/var/tmp}/losskit-deb.XXXXXX")
root=$work/root
clean_up() {
    umount "$root/proc" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
said() { if ! "$@" >"$work/log" 2>&1; then tail -30 "$work/log" >&2; return 1; fi; }
inside() { env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 chroot "$root" "$@"; }
passed() { printf '  ok      %s\n' "$*"; }

said debootstrap --variant=minbase bookworm "$root" "$mirror"
cp /etc/apt/apt.conf.d/* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
mount --bind /proc "$root/proc"
cp build/packages/*_"$(dpkg --print-architecture)".deb "$root/srv"
count() { inside dpkg-query -W | wc -l; }
before=$(count)
said inside sh -c 'apt-get install -y --no-install-recommends systemd-sysv dbus curl /srv/lossd_*.deb'
passed "installed: $(($(count) - before)) packages, with systemd and curl"

awk '/^```console$/ {on = 1; next} on && /^```$/ {exit} on' README.md >"$work/example"
"$PWD/docker/packages/boot.sh" "$root" >"$work/boot" 2>&1 &
machine=$!
clean_up_machine() {
    kill -KILL $machine 2>/dev/null || true
    wait $machine 2>/dev/null || true
}
trap 'clean_up_machine; clean_up' EXIT
booted() {
    for _ in $(seq 300); do
        kill -0 $machine 2>/dev/null || break
        init=$(pgrep -P $machine -x systemd || true)
        [ -z "$init" ] || case $(within systemctl is-system-running 2>/dev/null) in running | degraded) return 0 ;; esac
        sleep 0.2
    done
    cat "$work/boot" >&2
    return 1
}
within() { nsenter --target "$init" --all --root --wd "$@"; }
answers() { diff <(sed 1d "$work/example") <(within sh -c "$(sed -n '1s/^\$ curl/curl -sS/p' "$work/example")"); }
booted
passed "systemd is up"
[ "$(within systemctl is-active lossd.service)" = active ]
answers
passed "lossd was started with it, as $(within systemctl show -P User lossd), and gives README.md's reply"
said within systemctl reload lossd.service
said within systemctl restart lossd.service
answers
passed "reloaded, restarted"
said within systemctl stop lossd.service
said within systemctl start lossd.socket
answers
passed "started by the first connection to its socket"
clean_up_machine
said inside systemd-analyze verify lossd.service lossd.socket
passed "systemd-analyze verify; $(inside systemd-analyze security --offline=yes lossd.service | tail -1 | tr -d '→')"
[ -s "$root/usr/share/bash-completion/completions/lossd" ]

said inside sh -c 'apt-get install -y --no-install-recommends /srv/liblosskit0_*.deb /srv/liblosskit-dev_*.deb gcc libc6-dev pkg-config'
awk '/^```c$/ {on = 1; next} on && /^```$/ {exit} on' README.md >"$root/tmp/example.c"
awk '/^```c$/ {c = 1} c && /^```text$/ {on = 1; next} on && /^```$/ {exit} on' README.md >"$work/want"
# shellcheck disable=SC2016 # the shell inside expands it
said inside sh -c 'cc /tmp/example.c $(pkg-config --cflags --libs losskit) -o /tmp/example'
diff "$work/want" <(inside /tmp/example)
passed "README.md's C program, linked with $(inside ldd /tmp/example | sed -n 's/^\s*\(liblosskit[^ ]*\).*/\1/p')"

said inside apt-get purge -y lossd liblosskit-dev liblosskit0
left=$(find "$root" -xdev \( -name '*lossd*' -o -name '*losskit*' \) -not -path '*/tmp/*' -not -path '*/srv/*' -not -path '*/var/lib/*' -not -path '*/proc/*')
[ -z "$left" ] || { printf 'left behind:\n%s\n' "$left" >&2; exit 1; }
passed "purged, and nothing is left"
