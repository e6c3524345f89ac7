#!/bin/bash
# The first process of the virtual machine (../vm.py), whose root is the host's file system under an
# overlay: what is written vanishes with the machine.
#
# It makes five hosts, each with a network, a host name and mounts of its own, on one bridge:
#
#     plain     10.99.0.1    the machine itself: an NFS server, and sshd for the nfs_ssh provider
#     source    10.99.0.11   an NFS server: /ext4, /xfs
#     backup    10.99.0.12   an NFS server: /ext4, /xfs
#     client    10.99.0.21   a data node
#     other     10.99.0.22   another one
#
# and fd99::<last number, 0x> besides. /mnt/hosts/<host>.pid is a process in each, for nsenter(1).
# $1: a directory shared with the host. In: authorized_keys, host_key. Out: log, ready.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
shared=$1

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
ln -sfn /proc/self/fd /dev/fd
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for place in /dev/shm /run /mnt /srv /var/lib/nfs; do
    mount -t tmpfs -o mode=1777 tmpfs $place
done
mkdir -p "$shared"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none shared "$shared"
exec </dev/null >"$shared/log" 2>&1
trap 'echo "init.sh: line $LINENO failed"; sync; echo o >/proc/sysrq-trigger; sleep 60' ERR
set -E

mkdir -p /run/vm /run/sshd /run/netns /export /mnt/hosts
chmod 755 /run /srv /mnt /var/lib/nfs
hostname plain
ip link set lo up
modprobe lockd nlm_grace_period=1
modprobe -a virtio_net loop nfsd nfsv3 nfsv4 veth bridge ext4 xfs sch_netem
# What the host's own configuration of NFS says is not for us.
mkdir -p /etc/nfs.conf.d /etc/exports.d
mount -t tmpfs tmpfs /etc/nfs.conf.d
mount -t tmpfs tmpfs /etc/exports.d
: >/run/vm/exports
printf '10.99.0.%s %s\n' 1 plain 11 source 12 backup >>/etc/hosts
[ -e /etc/exports ] || : >/etc/exports
mount --bind /run/vm/exports /etc/exports

# --- networks --------------------------------------------------------------------------------------
eth=$(cd /sys/class/net && ls -d e* | head -1)
ip addr add 10.0.2.15/24 dev "$eth"
ip link set "$eth" up
ip link add lan type bridge
ip addr add 10.99.0.1/24 dev lan
ip addr add fd99::1/64 dev lan nodad
ip link set lan up

# host NAME NUMBER: ends when the host has its address
host() {
    ip netns add "$1"
    ip link add "$1" type veth peer name eth0 netns "$1"
    ip link set "$1" master lan up
    ip -n "$1" addr add "10.99.0.$2/24" dev eth0
    ip -n "$1" addr add "fd99::$2/64" dev eth0 nodad
    ip -n "$1" link set lo up
    ip -n "$1" link set eth0 up
    ip netns exec "$1" unshare --mount --uts bash -ec '
        hostname "$1"   # else v4.1 clients take two servers for one
        mount -t tmpfs tmpfs /run
        mount -t tmpfs tmpfs /var/lib/nfs
        mkdir -p /run/rpcbind /run/rpc_pipefs /var/lib/nfs/{nfsdcld,v4recovery,sm}
        : >/var/lib/nfs/etab
        : >/run/is-a-host
        exec sleep infinity' host "$1" &
    echo $! >"/mnt/hosts/$1.pid"
    # Not before it has mounts of its own: till then nsenter(1) would find those of `plain`.
    until nsenter -t $! -m test -e /run/is-a-host 2>/dev/null; do sleep 0.1; done
}
on() {
    local name=$1
    shift
    nsenter -t "$(cat "/mnt/hosts/$name.pid")" -n -m -u -- "$@"
}

# What registers with rpcbind must find it listening, which it may not yet when it has forked.
portmapper='
    set -e
    rpcbind -w || rpcbind
    for ((i = 0; i < 100; i++)); do
        rpcinfo -p localhost >/dev/null 2>&1 && break
        sleep 0.2
    done
'

# --- NFS servers -----------------------------------------------------------------------------------
# In the namespaces of a server; $1: the directory that its clients see as /. (Of v4's pseudo root
# the kernel must be able to make file handles, which it cannot of an overlay.)
nfs_server="$portmapper"'
    printf "[exports]\nrootdir=%s\n" "$1" >/etc/nfs.conf.d/vm.conf
    mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
    mountpoint -q /run/rpc_pipefs || mount -t rpc_pipefs sunrpc /run/rpc_pipefs
    echo 10 >/proc/fs/nfsd/nfsv4leasetime
    echo 10 >/proc/fs/nfsd/nfsv4gracetime
    nfsdcld
    exportfs -ra
    rpc.mountd
    rpc.statd --no-notify
    rpc.nfsd 8'

# image FILE TYPE DIRECTORY
image() {
    truncate -s 2G "$1"
    case $2 in
        ext4) mkfs.ext4 -q -F -E lazy_itable_init=1 "$1" ;;
        xfs) mkfs.xfs -q "$1" ;;
    esac
    mkdir -p "$3"
    mount -o loop "$1" "$3"
}
server() {
    local root=/export/$1 type
    mkdir -p "$root"
    mount -t tmpfs -o mode=755 tmpfs "$root"
    for type in ext4 xfs; do image "/mnt/$1-$type.img" $type "$root/$type"; done
    host "$1" "$2"
    on "$1" bash -ec '
        mount -t tmpfs tmpfs /etc/nfs.conf.d
        mount -t tmpfs tmpfs /etc/exports.d
        for type in ext4 xfs; do
            echo "/$type *(rw,sync,no_root_squash,no_subtree_check,insecure)"
        done >/etc/exports.d/vm.exports' bash
    on "$1" bash -c "$nfs_server" bash "$root"
}
server source 11
server backup 12

mkdir -p /export/plain
mount -t tmpfs -o mode=755 tmpfs /export/plain
image /mnt/plain.img ext4 /export/plain/srv
mount --bind /export/plain/srv /srv
mkdir -p /run/rpcbind /run/rpc_pipefs /var/lib/nfs/{nfsdcld,v4recovery,sm}
bash -c "$nfs_server" bash /export/plain

for number in 21 22; do
    name=client
    [ $number = 21 ] || name=other
    host $name $number
    on $name bash -c "$portmapper"'rpc.statd --no-notify'   # v3 locks
done

# --- the way in ------------------------------------------------------------------------------------
cat >/run/vm/sshd_config <<END
HostKey /run/vm/host_key
AuthorizedKeysFile /run/vm/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
PidFile none
MaxSessions 100
MaxStartups 100
END
cp "$shared/host_key" "$shared/authorized_keys" /run/vm/
chmod 600 /run/vm/host_key
[ ! -e /root/.bashrc ] || mount --bind /dev/null /root/.bashrc
/usr/sbin/sshd -f /run/vm/sshd_config
: >"$shared/ready"
while :; do
    wait -n 2>/dev/null || sleep 1
done
