#!/usr/bin/env bash
# From an empty directory to a backup restored twice, as a tenant would do it.
#
#   tools/demo.sh [--keep] [--files N]
#
# Installs into .venv, starts the standalone service on 127.0.0.1 with an empty state directory,
# and drives it with the real `openstack` client. Ends 0 only if what was restored is identical to
# what was there, also after the loss of the database. --keep leaves the service running.
# MANILA_BACKUP_DEMO_DIR names the directory that everything is put in (made; by default a new one
# under TMPDIR).
set -euo pipefail
cd "$(dirname "$0")/.."

keep=no
files=4000
while [ $# -gt 0 ]; do
    case $1 in
        --keep) keep=yes ;;
        --files) files=$2; shift ;;
        *) sed -n '2,10p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2 ;;
    esac
    shift
done

tools/install.sh client
bin=$PWD/.venv/bin
tools=$PWD/tools
work=${MANILA_BACKUP_DEMO_DIR:-$(mktemp -d "${TMPDIR:-/tmp}/manila-backup-demo.XXXXXX")}
mkdir -p "$work"
state=$work/state
original=$work/original
log=$work/service.log
service=

heading() { printf '\n=== %s\n' "$*"; }
fail() { echo "demo FAILED: $*" >&2; exit 1; }

# Print a command as a person would type it, then run it.
run() {
    printf '$ %s\n' "$*"
    "$@"
}

# The service is ended by its pid; the directory goes unless --keep.
finish() {
    code=$?
    if [ "$code" -ne 0 ]; then
        echo "--- the end of $log" >&2
        tail -n 30 "$log" >&2 2>/dev/null || true
    fi
    if [ "$keep" = yes ] && [ "$code" -eq 0 ]; then
        return
    fi
    [ -z "$service" ] || { kill "$service" 2>/dev/null && wait "$service" 2>/dev/null; } || true
    [ -n "${MANILA_BACKUP_DEMO_DIR:-}" ] || rm -rf "$work"
    exit "$code"
}
trap finish EXIT

# start_service PORT N: the N-th start with this log.
start_service() {
    "$bin/manila-backup-standalone" --state-dir "$state" --port "$1" >>"$log" 2>&1 &
    service=$!
    for _ in $(seq 1 300); do
        ready=$(grep -a 'is ready:' "$log" | tail -n 1 || true)
        [ -n "$ready" ] && [ "$(grep -ac 'is ready:' "$log")" -ge "$2" ] && break
        kill -0 "$service" 2>/dev/null || fail "the service did not start"
        sleep 0.1
    done
    [ -n "$ready" ] || fail "the service did not become ready"
    export OS_AUTH_TYPE=none OS_ENDPOINT=${ready##*OS_ENDPOINT=}
}

stop_service() {
    kill "$service"
    wait "$service" || fail "the service ended with an error"
    service=
}

tree_of() {
    local path
    path=$(openstack share export location list "$1" -f value -c Path | head -n 1)
    echo "${path#*:}"
}

# sed reads its input to the end where head would not: no broken pipes under pipefail.
damage() {
    printf '$ # delete, damage and add files in the share\n'
    rm -rf "$1/real/$(ls "$1/real" | sed -n 1p)"
    find "$1/real" -type f | sed -n 1,3p | while IFS= read -r name; do
        chmod u+w "$name"
        echo damaged >>"$name"
    done
    find "$1/real" -type f | sed -n 10,12p | tr '\n' '\0' | xargs -0 rm -f
    mkdir -p "$1/a directory that the backup lacks/below"
    echo "left by a stranger" >"$1/a directory that the backup lacks/below/extra"
    chmod 0700 "$1"
}

compare() {
    run "$bin/python" "$tools/compare_trees.py" --ignore lost+found "$original" "$1" ||
        fail "the restored share is not identical to the original"
}

export PATH="$bin:$PATH"
export PYTHONWARNINGS=ignore

heading "The comparer proves itself"
run "$bin/python" "$tools/compare_trees.py" --self-test

heading "An empty service"
port=$("$bin/python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
start_service "$port" 1
echo "OS_AUTH_TYPE=none OS_ENDPOINT=$OS_ENDPOINT"

heading "A share with a real tree in it"
run openstack share create NFS 1 --name projects --share-type default --wait
share=$(openstack share show projects -f value -c id)
tree=$(tree_of "$share")
mkdir -p "$original"
run "$bin/python" "$tools/make_demo_tree.py" --files "$files" "$original"
run cp -a "$original/." "$tree/"
compare "$tree"

heading "Backup"
run openstack share backup create projects --name monday --description "before the damage"
run "$bin/python" "$tools/watch_operation.py" "$OS_ENDPOINT" monday --distinct 10
run openstack share backup list
run openstack share backup show monday
[ "$(openstack share backup show monday -f value -c status)" = available ] ||
    fail "the backup did not become available"
backup=$(openstack share backup show monday -f value -c id)

heading "Damage, and restore"
damage "$tree"
"$bin/python" "$tools/compare_trees.py" "$original" "$tree" >/dev/null &&
    fail "the damage was not noticed"
run openstack share backup restore monday --wait
compare "$tree"

heading "The database is lost; the store is enough"
stop_service
run rm -f "$state"/manila-backup.sqlite*
start_service "$port" 2
run openstack share backup list
run manila-backup-manage --state-dir "$state" backup import
run openstack share backup list
run manila-backup-manage --state-dir "$state" backup verify "$backup"
damage "$tree"
run openstack share backup restore "$backup" --wait
compare "$tree"

heading "Identical, twice"
if [ "$keep" = yes ]; then
    cat <<EOM
The service goes on (pid $service). Talk to it:
    export PATH=$bin:\$PATH OS_AUTH_TYPE=none OS_ENDPOINT=$OS_ENDPOINT
    openstack share backup list
The share's tree:  $tree
The log:           $log
Stop it:           kill $service
EOM
    trap - EXIT
    disown "$service"
fi
