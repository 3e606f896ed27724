#!/bin/sh
# webhookd in one file: this script, and behind it a compressed archive with the interpreter and every library.
# It unpacks the archive below TMPDIR (/tmp) and becomes the program. When the program has ended, even by kill -9,
# what was unpacked is removed.
fail() {
    [ -z "${unpacked:-}" ] || rm -rf "$unpacked"
    echo "webhookd: $1: set TMPDIR to a directory that has room for @MIB@ MiB and is not mounted noexec" >&2
    exit 1
}
place=${TMPDIR:-/tmp}
unpacked=$(mktemp -d "$place/webhookd.XXXXXX" 2>/dev/null) || fail "can't make a directory in $place"
trap 'rm -rf "$unpacked"; exit 1' HUP INT TERM
printf '#!/bin/sh\n' 2>/dev/null >"$unpacked/try" && chmod 700 "$unpacked/try" || fail "can't write to $place"
"$unpacked/try" 2>/dev/null || fail "programs in $place may not be executed"
tail -n +@LINES@ "$0" | tar -xzf - -C "$unpacked" 2>/dev/null && [ -e "$unpacked/webhookd/complete" ] ||
    fail "can't unpack into $place"
mkfifo "$unpacked/alive" || fail "can't write to $place"
# The pipe's other end is held by the program alone: once that has ended, the read ends and the files are removed.
(
    trap '' HUP INT QUIT TERM
    cat "$unpacked/alive"
    rm -rf "$unpacked"
) </dev/null >/dev/null 2>&1 &
exec 9>"$unpacked/alive"
trap - HUP INT TERM
WEBHOOKD_ONE_FILE=$0
export WEBHOOKD_ONE_FILE
exec "$unpacked/webhookd/webhookd" "$@"
