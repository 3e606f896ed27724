# Runs podman with only version 2 of control groups: crun does not accept a mixture of both versions.
# usage: podman.sh ARGUMENTS...
set -eu
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
exec podman "$@"
