#!/usr/bin/env bash
# Boot the systemd of a folder in namespaces of its own, without a container runtime. It ends with SIGKILL to this
# process, and sees nothing of what runs outside, nor another network than a loopback.
# Usage: docker/packages/boot.sh FOLDER, as root
set -euo pipefail
self=$(realpath -- "$0")
cd "$1"
if [ "${2:-}" != inside ]; then
    exec unshare --pid --mount --uts --ipc --net --cgroup --fork --kill-child "$self" . inside
fi
mount --make-rprivate /
mount --bind . .
cd "$PWD"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup
    mkdir sys/fs/cgroup/unified sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
for node in null zero full random urandom tty; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
ln -s pts/ptmx dev/ptmx
ip link set lo up
pivot_root . mnt
umount -l mnt
export container=lxc
exec /lib/systemd/systemd --log-target=console </dev/null
