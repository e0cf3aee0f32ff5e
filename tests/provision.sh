#!/bin/bash
# Makes a Debian host ready to run sup and its tests; run as root. Installs only what is missing.
#   tests/provision.sh [USER]     USER: an ordinary user who shall have subordinate ids
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "provision.sh: run it as root" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive

missing=()
need() { # need PACKAGE TEST...: PACKAGE is wanted unless TEST succeeds
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
need python3 test -x /usr/bin/python3
need python3-venv /usr/bin/python3 -c 'import ensurepip, venv'
need tmux command -v tmux
need uidmap command -v newuidmap
need gcc command -v gcc
need libc6-dev test -e /usr/include/stdio.h
need man-db command -v man
need vim-tiny command -v vi
need procps command -v ps
need passwd command -v useradd
need util-linux command -v setpriv

if [ ${#missing[@]} -gt 0 ]; then
    echo "provision.sh: installing ${missing[*]}"
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Debian's own switch, where its kernel has it: namespaces for ordinary users.
if [ "$(cat /proc/sys/kernel/unprivileged_userns_clone 2>/dev/null || echo 1)" = 0 ]; then
    sysctl -q -w kernel.unprivileged_userns_clone=1
fi

user=${1:-}
if [ -n "$user" ]; then
    for file in /etc/subuid /etc/subgid; do
        touch "$file"
        if ! grep -q "^$user:" "$file"; then
            start=$(awk -F: 'BEGIN { e = 100000 } $2 + $3 > e { e = $2 + $3 } END { print e }' "$file")
            echo "$user:$start:65536" >>"$file"
        fi
    done
fi

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo "provision.sh: ready (cgroup v2)"
else
    echo "provision.sh: ready (cgroup v1 or hybrid: sup works there too)"
fi
