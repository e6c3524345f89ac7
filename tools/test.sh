#!/usr/bin/env bash
# Set up what the tests need and run them; ends with pytest's closing line.
#
#   tools/test.sh [quick|default|full] [PYTEST ARGUMENT]...
#
# quick     linters and the tests that need no process of their own; at most 2 minutes
# default   also the acceptance tests; at most 25 minutes
# full      everything but what is marked by_hand; at most 55 minutes
#
# As root on Debian the packages that the tests need are installed too, and no test may skip.
# Elsewhere each skipped test says why.
set -euo pipefail
cd "$(dirname "$0")/.."

level=${1:-default}
[ $# -gt 0 ] && shift
case $level in
    quick) marks="not acceptance and not slow and not full and not by_hand" ;;
    default) marks="not full and not by_hand" ;;
    full) marks="not by_hand" ;;
    *) echo "usage: tools/test.sh [quick|default|full] [PYTEST ARGUMENT]..." >&2; exit 2 ;;
esac

# Servers and file systems that tests start, and a compiler for the native part.
packages=(
    acl apache2 attr btrfs-progs curl e2fsprogs fpart gcc haproxy libc6-dev libfuse3-dev
    mariadb-client-core mariadb-server-core mount nfs-kernel-server nginx-light
    openssh-client openssh-server pkg-config postgresql procps python3-dev rabbitmq-server rsync
    shellcheck sudo systemd tar util-linux xfsprogs
)
# And a kernel to emulate that serves NFS, which this machine's need not.
if [ "$(uname -m)" = x86_64 ]; then
    packages+=(busybox-static cpio iproute2 kmod linux-image-amd64 qemu-system-x86)
fi

debian_packages() {
    local missing=() package
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    echo "installing Debian packages: ${missing[*]}"
    apt-get update -qq
    # RUNLEVEL: the tests start servers of their own, the packages are not to start any.
    # INITRD: nothing is booted from the kernel's own.
    RUNLEVEL=1 INITRD=No DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null
}
if [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
    debian_packages
    [ -e /dev/fuse ] || modprobe fuse
fi
tools/install.sh client test

export PATH="$PWD/.venv/bin:$PATH"
ruff check .
ruff format --check .
mypy
lint-imports
# In the order of collection: see tests/support/schedule.py.
exec python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "$marks" "$@"
