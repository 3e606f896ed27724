# Boots a directory as a machine under systemd-nspawn. Nothing in it is changed: writes go to memory.
# usage: booted.sh ROOT SHARED; runs SHARED/script in the booted machine, with its output in SHARED/log.
set -eu
root=$1 shared=$2
# Control groups of version 2, in a mount namespace of its own: the host may have another version.
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none "$shared/memory"
mkdir "$shared/memory/upper" "$shared/memory/work" "$shared/memory/root"
mount -t overlay -o "lowerdir=$root,upperdir=$shared/memory/upper,workdir=$shared/memory/work" none "$shared/memory/root"
units=$shared/memory/root/etc/systemd/system
mkdir -p "$units/multi-user.target.wants"
cat >"$units/checks.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh /shared/script
ExecStopPost=/bin/sh -c 'echo "$EXIT_STATUS" > /shared/status; systemctl poweroff --force'
StandardOutput=file:/shared/log
StandardError=file:/shared/log
TimeoutStartSec=600
UNIT
ln -s ../checks.service "$units/multi-user.target.wants/checks.service"
exec systemd-nspawn -q -D "$shared/memory/root" --boot --register=no --keep-unit --console=pipe --bind="$shared:/shared"
