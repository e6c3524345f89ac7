#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# devstack sources this file with a mode and a phase:
#
#   stack install | post-config | extra      unstack      clean
#
# Each may be repeated, and repeated after it was killed anywhere: what outlives a run is written
# down before it is made (the catalog's old URLs), or found again by its name (everything else).
# devstack runs it as $STACK_USER, under errexit in stack.sh and without in unstack.sh and clean.sh.

# Who was Manila's endpoint before the gateway: lines of "id URL", only ever added to.
MANILA_BACKUP_OLD_ENDPOINTS=$MANILA_BACKUP_STATE_DIR/endpoints.before

function _manila_backup_openstack {
    openstack --os-cloud devstack-system-admin "$@"
}

function _manila_backup_url {
    echo "$MANILA_BACKUP_PROTOCOL://$SERVICE_HOST:$MANILA_BACKUP_PORT/v2"
}

function _manila_backup_program {
    echo "$(get_python_exec_prefix)/$1"
}

# --- install --------------------------------------------------------------------------------------

function install_manila_backup {
    if is_ubuntu; then
        install_package nfs-kernel-server nfs-common
    else
        install_package nfs-utils
    fi
    setup_develop "$MANILA_BACKUP_DIR" "${DATABASE_TYPE:-mysql}"
}

# --- post-config: all that needs the database and Keystone, nothing that needs Manila ---------------

function configure_manila_backup {
    sudo install -d -m 0755 "$MANILA_BACKUP_STATE_DIR"
    sudo install -d -m 0700 "$MANILA_BACKUP_EXPORT_DIR"
    # iniset needs to write in the directory; the file has passwords.
    sudo install -d -o "$STACK_USER" -m 0750 "$MANILA_BACKUP_CONF_DIR"
    rm -f "$MANILA_BACKUP_CONF"
    install -m 0600 /dev/null "$MANILA_BACKUP_CONF"

    local conf=$MANILA_BACKUP_CONF
    iniset "$conf" DEFAULT debug "${ENABLE_DEBUG_LOG_LEVEL:-True}"
    iniset "$conf" DEFAULT share_provider "$MANILA_BACKUP_SHARE_PROVIDER"
    iniset "$conf" DEFAULT data_node_address "$MANILA_BACKUP_NODE_ADDRESS"
    iniset "$conf" DEFAULT mount_directory "$MANILA_BACKUP_STATE_DIR/mounts"
    iniset "$conf" DEFAULT backup_mount_proto nfs
    iniset "$conf" DEFAULT backup_mount_export "$(_manila_backup_export_host):$MANILA_BACKUP_EXPORT_DIR"
    iniset "$conf" DEFAULT backup_mount_options "$MANILA_BACKUP_MOUNT_OPTIONS"

    _configure_manila_backup_database
    _configure_manila_backup_bus

    iniset "$conf" api auth_strategy keystone
    iniset "$conf" api listen_address "$MANILA_BACKUP_LISTEN_ADDRESS"
    iniset "$conf" api listen_port "$MANILA_BACKUP_PORT"
    configure_keystone_authtoken_middleware "$conf" "$MANILA_BACKUP_USER"
    _configure_manila_backup_provider
}

# IPv6 addresses stand in brackets before a path.
function _manila_backup_export_host {
    if [[ $MANILA_BACKUP_NODE_ADDRESS == *:* ]]; then
        echo "[$MANILA_BACKUP_NODE_ADDRESS]"
    else
        echo "$MANILA_BACKUP_NODE_ADDRESS"
    fi
}

function _configure_manila_backup_database {
    local url
    url=$(database_connection_url "$MANILA_BACKUP_DATABASE")
    # devstack asks for utf8, which is three bytes a character in MySQL; names of backups have more.
    if [[ $url != *charset=utf8mb4* ]]; then
        url=${url/charset=utf8/charset=utf8mb4}
    fi
    iniset "$MANILA_BACKUP_CONF" database connection "$url"
}

function _configure_manila_backup_bus {
    iniset_rpc_backend manila_backup "$MANILA_BACKUP_CONF" DEFAULT
    if grep -q '^transport_url *= *[^ ]' "$MANILA_BACKUP_CONF"; then
        iniset "$MANILA_BACKUP_CONF" DEFAULT use_bus True
    else
        iniset "$MANILA_BACKUP_CONF" DEFAULT use_bus False
    fi
}

# As whom the provider talks to Manila.
function _configure_manila_backup_provider {
    local conf=$MANILA_BACKUP_CONF
    iniset "$conf" manila auth_type password
    iniset "$conf" manila auth_url "$KEYSTONE_SERVICE_URI"
    iniset "$conf" manila username "$MANILA_BACKUP_USER"
    iniset "$conf" manila password "$SERVICE_PASSWORD"
    iniset "$conf" manila user_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$conf" manila project_name "$SERVICE_PROJECT_NAME"
    iniset "$conf" manila project_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$conf" manila region_name "$REGION_NAME"
    if [[ -n ${SSL_BUNDLE_FILE:-} ]]; then
        iniset "$conf" manila cafile "$SSL_BUNDLE_FILE"
    fi
}

# As with every service of devstack, stacking begins with an empty database. The backup share is
# kept: manila-backup-manage backup import finds the backups that are on it.
function init_manila_backup {
    recreate_database "$MANILA_BACKUP_DATABASE"
    "$(_manila_backup_program manila-backup-manage)" --config-file "$MANILA_BACKUP_CONF" db sync
    "$(_manila_backup_program manila-backup-status)" --config-file "$MANILA_BACKUP_CONF" upgrade check
}

# The role admin: Manila lets nobody else set the state of a share and lock access rules.
function create_manila_backup_accounts {
    local url
    url=$(_manila_backup_url)
    create_service_user "$MANILA_BACKUP_USER" admin
    get_or_create_service manila-backup "$MANILA_BACKUP_SERVICE_TYPE" "Backup of shares"
    get_or_create_endpoint "$MANILA_BACKUP_SERVICE_TYPE" "$REGION_NAME" "$url" "$url" "$url"
}

# --- extra: Manila runs by now --------------------------------------------------------------------

function export_manila_backup_share {
    local server=nfs-kernel-server
    is_ubuntu || server=nfs-server
    sudo install -d "$(dirname "$MANILA_BACKUP_EXPORTS_FILE")"
    # The data node writes as root and is this host: nobody else may mount what all tenants stored.
    echo "$MANILA_BACKUP_EXPORT_DIR $(_manila_backup_export_host)(rw,sync,no_root_squash,no_subtree_check)" |
        sudo tee "$MANILA_BACKUP_EXPORTS_FILE" >/dev/null
    start_service "$server"
    sudo exportfs -ra
}

function unexport_manila_backup_share {
    [[ -e $MANILA_BACKUP_EXPORTS_FILE ]] || return 0
    sudo rm -f "$MANILA_BACKUP_EXPORTS_FILE"
    sudo exportfs -ra
}

# Lines of "id interface URL": Manila's API v2 in this region. Fails when Keystone is away.
function _manila_endpoints {
    local listed id type interface url
    listed=$(_manila_backup_openstack endpoint list --region "$REGION_NAME" -f value \
        -c ID -c "Service Type" -c Interface -c URL) || return 1
    while read -r id type interface url; do
        if [[ $type == sharev2 || $type == shared-file-system ]]; then
            echo "$id $interface $url"
        fi
    done <<<"$listed"
}

# The URL of Manila itself, from the settings, or from the catalog as it was before the gateway.
function _manila_itself {
    local id interface url ours now found=""
    if [[ -n $MANILA_BACKUP_MANILA_ENDPOINT ]]; then
        echo "$MANILA_BACKUP_MANILA_ENDPOINT"
        return 0
    fi
    ours=$(_manila_backup_url)
    now=$(_manila_endpoints) || die $LINENO "the catalog cannot be read"
    while read -r id interface url; do
        if [[ $url == "$ours" ]]; then
            url=$(_old_endpoint "$id")
        fi
        if [[ -n $url && ( -z $found || $interface == public ) ]]; then
            found=$url
        fi
    done <<<"$now"
    if [[ -z $found ]]; then
        die $LINENO "the catalog has no endpoint of sharev2 or shared-file-system: enable Manila's plugin before this one, or set MANILA_BACKUP_MANILA_ENDPOINT"
    fi
    # Older Manilas have the project in the path; whoever calls puts it there where it is needed.
    found=${found%%/[\$%](*}
    echo "${found%/}"
}

function _old_endpoint {
    local id url
    [[ -e $MANILA_BACKUP_OLD_ENDPOINTS ]] || return 0
    while read -r id url; do
        if [[ $id == "$1" ]]; then
            echo "$url"
        fi
    done <"$MANILA_BACKUP_OLD_ENDPOINTS" | tail -1
}

function configure_manila_itself {
    local url
    url=$(_manila_itself)
    iniset "$MANILA_BACKUP_CONF" manila endpoint_override "$url"
    if [[ $MANILA_BACKUP_GATEWAY == True ]]; then
        # The gateway wants the root of the API.
        iniset "$MANILA_BACKUP_CONF" gateway manila_endpoint "${url%/v2}"
    fi
}

function start_manila_backup {
    run_process manila-backup-api \
        "$(_manila_backup_program manila-backup-api) --config-file $MANILA_BACKUP_CONF"
    run_process manila-backup-data \
        "$(_manila_backup_program manila-backup-data) --config-file $MANILA_BACKUP_CONF" root root
}

function wait_for_manila_backup {
    wait_for_service "$SERVICE_TIMEOUT" "${MANILA_BACKUP_PROTOCOL}://$SERVICE_HOST:$MANILA_BACKUP_PORT/" ||
        die $LINENO "manila-backup-api does not answer"
}

# Written down first and changed then; an endpoint that leads to us already is left alone.
function take_manila_endpoints {
    local id interface url ours now
    ours=$(_manila_backup_url)
    now=$(_manila_endpoints) || die $LINENO "the catalog cannot be read"
    while read -r id interface url <&3; do
        [[ -z $id || $url == "$ours" ]] && continue
        echo "$id $url" | sudo tee -a "$MANILA_BACKUP_OLD_ENDPOINTS" >/dev/null
        _manila_backup_openstack endpoint set --url "$ours" "$id"
    done 3<<<"$now"
}

# --- unstack --------------------------------------------------------------------------------------

# Only what still leads to us is put back. The file stays if Keystone is away.
function give_manila_endpoints_back {
    local id interface url ours old now
    [[ -e $MANILA_BACKUP_OLD_ENDPOINTS ]] || return 0
    ours=$(_manila_backup_url)
    now=$(_manila_endpoints) || return 1
    while read -r id interface url <&3; do
        [[ -n $id && $url == "$ours" ]] || continue
        old=$(_old_endpoint "$id")
        [[ -n $old ]] || continue
        _manila_backup_openstack endpoint set --url "$old" "$id" || return 1
    done 3<<<"$now"
    sudo rm -f "$MANILA_BACKUP_OLD_ENDPOINTS"
}

# Endpoints go with their service.
function delete_manila_backup_accounts {
    local id name type ids
    ids=$(_manila_backup_openstack service list -f value -c ID -c Type) || return 1
    while read -r id type <&3; do
        [[ $type == "$MANILA_BACKUP_SERVICE_TYPE" ]] || continue
        _manila_backup_openstack service delete "$id" || return 1
    done 3<<<"$ids"
    ids=$(_manila_backup_openstack user list --domain "$SERVICE_DOMAIN_NAME" -f value -c ID -c Name) || return 1
    while read -r id name <&3; do
        [[ $name == "$MANILA_BACKUP_USER" ]] || continue
        _manila_backup_openstack user delete "$id" || return 1
    done 3<<<"$ids"
}

function unmount_manila_backup {
    local point
    # The last mounted first. Names there are our own: no blanks.
    for point in $(findmnt --list --noheadings --output TARGET | grep -F "$MANILA_BACKUP_STATE_DIR/mounts/" | tac); do
        sudo umount "$point" || sudo umount --lazy "$point"
    done
}

# Manila's own entries first: its users need them when our API has stopped.
function stop_manila_backup {
    give_manila_endpoints_back ||
        echo "warning: Keystone is away; the old endpoints stay in $MANILA_BACKUP_OLD_ENDPOINTS"
    stop_process manila-backup-api
    stop_process manila-backup-data
    unmount_manila_backup
    unexport_manila_backup_share
}

# --- clean ----------------------------------------------------------------------------------------

# clean.sh does not always say which server it was.
function _drop_manila_backup_database {
    case ${DATABASE_TYPE:-mysql} in
        mysql)
            MYSQL_PWD=${DATABASE_PASSWORD:-} mysql --connect-timeout=5 --user="${DATABASE_USER:-root}" \
                --host="${MYSQL_HOST:-127.0.0.1}" -e "DROP DATABASE IF EXISTS $MANILA_BACKUP_DATABASE"
            ;;
        postgresql)
            PGPASSWORD=${DATABASE_PASSWORD:-} dropdb --if-exists --username="${DATABASE_USER:-root}" \
                --host="${DATABASE_HOST:-127.0.0.1}" "$MANILA_BACKUP_DATABASE"
            ;;
    esac
}

# clean.sh has stopped Keystone and the database before, and removes both as a whole: then there is
# nothing left to be put back or dropped there. Called by itself it finds them.
function cleanup_manila_backup {
    stop_manila_backup
    delete_manila_backup_accounts || echo "Keystone is away; our user and service were not deleted"
    _drop_manila_backup_database || echo "the database server is away; our database was not dropped"
    if findmnt --list --noheadings --output TARGET | grep -qF "$MANILA_BACKUP_STATE_DIR/"; then
        echo "error: something is still mounted below $MANILA_BACKUP_STATE_DIR; nothing is removed there"
        return 1
    fi
    sudo rm -rf --one-file-system "$MANILA_BACKUP_STATE_DIR" "$MANILA_BACKUP_EXPORT_DIR" "$MANILA_BACKUP_CONF_DIR"
}

# --- which of them when ---------------------------------------------------------------------------

case "$1 ${2:-}" in
    "stack install")
        echo_summary "Installing manila_backup"
        install_manila_backup
        ;;
    "stack post-config")
        echo_summary "Configuring manila_backup"
        # Of an earlier stack: nothing may work on a database that is about to be dropped, and
        # Manila's own plugin is to reach Manila until our API is there again.
        stop_manila_backup
        configure_manila_backup
        init_manila_backup
        create_manila_backup_accounts
        ;;
    "stack extra")
        echo_summary "Starting manila_backup"
        configure_manila_itself
        export_manila_backup_share
        start_manila_backup
        if [[ $MANILA_BACKUP_GATEWAY == True ]]; then
            wait_for_manila_backup
            take_manila_endpoints
        else
            give_manila_endpoints_back
        fi
        ;;
    "unstack ")
        stop_manila_backup
        ;;
    "clean ")
        cleanup_manila_backup
        ;;
esac
