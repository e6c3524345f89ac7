# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What devstack gives to plugins, as far as ours calls it: the same names, arguments and effects,
# written anew, on a real Keystone and a real MariaDB. Only these do not what they are called:
# install_package, setup_develop and start_service write down that they were called; run_process and
# stop_process ask the test to start or stop the command.
#
#   harness.sh stack | unstack | clean
#
# From the environment: HARNESS (directory), HARNESS_BIN, HARNESS_DATABASE_PORT, HARNESS_FAULT, and
# variables of devstack (HOST_IP, ...).

set -o errexit -o errtrace

# --- small things ---------------------------------------------------------------------------------

function echo_summary { echo "=== $*"; }
function die {
    echo "[ERROR] line $1: $2" >&2
    exit 1
}
function define_plugin { :; }
function plugin_requires { :; }
function enable_service { ENABLED_SERVICES+="${*/#/,}"; }
function is_service_enabled { [[ ",${ENABLED_SERVICES// /}," == *",$1,"* ]]; }
function is_ubuntu { true; }
function get_python_exec_prefix { echo "$HARNESS_BIN"; }
function trueorfalse {
    case "${!2:-}" in
        1 | [Tt]rue | TRUE | [Yy]es | YES) echo True ;;
        0 | [Ff]alse | FALSE | [Nn]o | NO) echo False ;;
        *) echo "$1" ;;
    esac
}

function iniset {
    grep -qxF "[$2]" "$1" 2>/dev/null || printf '\n[%s]\n' "$2" >>"$1"
    # The environment, since awk would read escapes in a variable that is given with -v.
    HEADER="[$2]" OPTION="$3 =" VALUE="$4" awk '
        /^\[/ { inside = ($0 == ENVIRON["HEADER"]) }
        inside && index($0, ENVIRON["OPTION"]) == 1 { next }
        { print }
        $0 == ENVIRON["HEADER"] { print ENVIRON["OPTION"] " " ENVIRON["VALUE"] }
    ' "$1" >"$1.new"
    cat "$1.new" >"$1"
    rm "$1.new"
}

# --- stand-ins ------------------------------------------------------------------------------------

function install_package { echo "install_package $*" >>"$HARNESS/calls"; }
function setup_develop { echo "setup_develop $*" >>"$HARNESS/calls"; }
function start_service { echo "start_service $*" >>"$HARNESS/calls"; }

function _ask {
    printf '%s\n' "${@:2}" >"$HARNESS/$1.new"
    mv "$HARNESS/$1.new" "$HARNESS/$1"
    while [[ -e $HARNESS/$1 ]]; do sleep 0.05; done
}
function run_process { _ask "start.$1" "$2" "${3:-}" "${4:-}"; }
function stop_process { _ask "stop.$1"; }
function wait_for_service {
    timeout "$1" bash -c \
        "until curl --noproxy '*' -s -o /dev/null -f '$2' || [[ \$? -eq 22 ]]; do sleep 0.2; done"
}

# --- the database ---------------------------------------------------------------------------------

export MYSQL_TCP_PORT=$HARNESS_DATABASE_PORT
function recreate_database {
    MYSQL_PWD=$DATABASE_PASSWORD mariadb --user="$DATABASE_USER" --host="$MYSQL_HOST" \
        -e "DROP DATABASE IF EXISTS $1; CREATE DATABASE $1 CHARACTER SET utf8"
}
function database_connection_url {
    echo "mysql+pymysql://$DATABASE_USER:$DATABASE_PASSWORD@$MYSQL_HOST:$MYSQL_TCP_PORT/$1?charset=utf8"
}
function iniset_rpc_backend {
    is_service_enabled rabbit || return 0
    iniset "$2" "${3:-DEFAULT}" transport_url "rabbit://$RABBIT_USERID:$RABBIT_PASSWORD@$RABBIT_HOST:5672/"
}

# --- Keystone -------------------------------------------------------------------------------------

# The fault that the test asks for: "before N" or "after N", killed at the N-th change of a URL.
function openstack {
    if [[ "$*" != *"endpoint set"* || -z ${HARNESS_FAULT:-} ]]; then
        command openstack "$@"
        return
    fi
    echo set >>"$HARNESS/sets"
    local number
    number=$(wc -l <"$HARNESS/sets")
    [[ $HARNESS_FAULT == "before $number" ]] && kill -KILL $$
    command openstack "$@"
    [[ $HARNESS_FAULT == "after $number" ]] && kill -KILL $$
    return 0
}
function _identity { "$HARNESS_BIN/python" "$MANILA_BACKUP_DIR/tests/devstack/identity.py" "$@"; }

function create_service_user {
    _identity user "$1" "$SERVICE_PASSWORD" "$SERVICE_DOMAIN_NAME" "$SERVICE_PROJECT_NAME" service ${2:+"$2"}
}
function get_or_create_service { _identity service "$2" "$1" "$3"; }
function get_or_create_endpoint {
    _identity endpoint "$1" "$2" "public=$3" "admin=${4:-}" "internal=${5:-}"
}
function configure_keystone_authtoken_middleware {
    local section=${3:-keystone_authtoken}
    iniset "$1" "$section" auth_type password
    iniset "$1" "$section" interface public
    iniset "$1" "$section" auth_url "$KEYSTONE_SERVICE_URI"
    iniset "$1" "$section" username "$2"
    iniset "$1" "$section" password "$SERVICE_PASSWORD"
    iniset "$1" "$section" user_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$1" "$section" project_name "$SERVICE_PROJECT_NAME"
    iniset "$1" "$section" project_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$1" "$section" www_authenticate_uri "$KEYSTONE_SERVICE_URI"
    iniset "$1" "$section" cafile "${SSL_BUNDLE_FILE:-}"
    iniset "$1" "$section" memcached_servers "${MEMCACHE_SERVERS:-}"
}

# --- as stack.sh, unstack.sh and clean.sh go through their plugins --------------------------------

plugin=$MANILA_BACKUP_DIR/devstack
# shellcheck source=/dev/null
source "$plugin/settings"
function phase {
    echo "--- $*"
    # shellcheck source=/dev/null
    source "$plugin/plugin.sh" "$@"
}
case $1 in
    stack)
        for each in pre-install install post-config extra test-config; do
            phase stack "$each"
        done
        ;;
    unstack)
        set +o errexit
        phase unstack
        ;;
    clean)
        set +o errexit
        phase unstack
        phase clean
        ;;
esac
