# SPDX-License-Identifier: Apache-2.0
"""A virtual machine whose kernel serves and mounts NFS, whatever this machine's kernel can.

It is emulated (qemu's TCG): programs are twenty times slower than outside, their start is fifty.
Its file system is this machine's, read-only under an overlay, so what is installed here can be run
there. The hosts in it are listed in ``guest/init.sh``; the way in is sshd on a port of loopback.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.share.ssh_server import make_key
from tests.support.children import LASTING
from tests.support.ports import free_port
from tests.support.servers import MissingServer, Server

PROGRAMS = (
    *("qemu-system-x86_64", "busybox", "cpio", "modprobe", "setpriv"),
    *("ssh", "sshd", "exportfs"),
)
BOOT_LIMIT_S = 400
"""It takes 40 s on an idle machine."""

PLAIN, SOURCE, BACKUP, CLIENT, OTHER = "plain", "source", "backup", "client", "other"
ADDRESSES = {
    PLAIN: "10.99.0.1",
    SOURCE: "10.99.0.11",
    BACKUP: "10.99.0.12",
    CLIENT: "10.99.0.21",
    OTHER: "10.99.0.22",
}
_NEEDED = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_rng")
"""Modules before the root file system is there."""

_INIT = """\
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose root /lower
$b mount -t tmpfs -o mode=755 tmpfs /upper
$b mkdir /upper/data /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root
exec $b switch_root /root /bin/bash {init} {shared}
"""
_ON = 'exec nsenter -t "$(cat /mnt/hosts/"$0".pid)" -n -m -u -- "$@"'


class VmFailed(Exception):
    """It did not boot, or a command in it failed; the message is what it said."""


def missing() -> str | None:
    """What keeps a machine from being started here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    if os.uname().machine != "x86_64":
        return "needs an x86-64 kernel to emulate"
    for program in PROGRAMS:
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"needs {program}"
    return None if _kernel() else "needs a Debian kernel (linux-image-amd64)"


def _kernel() -> Path | None:
    found = [
        path
        for path in Path("/boot").glob("vmlinuz-*-amd64")
        if "cloud" not in path.name and Path("/lib/modules", path.name.partition("-")[2]).is_dir()
    ]
    return max(found, key=_version, default=None)


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", path.name.removesuffix("-amd64"))]


class Vm(Server):
    """A context manager; the machine is gone at its end.

    :raises MissingServer: something is not installed; the message names it.
    :raises VmFailed: it does not boot.
    """

    def __init__(self, *, processors: int = 2, memory_mib: int = 3072) -> None:
        super().__init__()
        self.port = free_port()
        self._processors = processors
        self._memory_mib = memory_mib
        self._process: subprocess.Popen[bytes] | None = None

    # --- its life ---------------------------------------------------------------------------------

    def _set_up(self) -> None:
        lacking = missing()
        if lacking:
            raise MissingServer(lacking)
        (self._directory / "shared").mkdir()
        for name in ("host_key", "user_key"):
            make_key(self._directory / name)
        shutil.copy(self._directory / "host_key", self._shared / "host_key")
        shutil.copy(self._directory / "user_key.pub", self._shared / "authorized_keys")
        kind, key, *_ = (self._directory / "host_key.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        kernel = _kernel()
        assert kernel is not None
        self._make_initramfs(kernel.name.partition("-")[2])
        with (self._directory / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command(kernel), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        LASTING.add(self._process.pid)
        self._wait()

    @property
    def _shared(self) -> Path:
        return self._directory / "shared"

    @property
    def key(self) -> Path:
        """Of root there."""
        return self._directory / "user_key"

    @property
    def known_hosts(self) -> Path:
        return self._directory / "known_hosts"

    def _make_initramfs(self, release: str) -> None:
        tree = self._directory / "initramfs"
        for name in ("bin", "modules", "lower", "upper", "root", "proc"):
            (tree / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, tree / "bin" / "busybox")
        (tree / "bin" / "sh").symlink_to("busybox")
        order = []
        for path in _modules(release):
            name = f"{path.name.partition('.ko')[0]}.ko"
            packed = path.suffix == ".xz"
            (tree / "modules" / name).write_bytes(
                lzma.decompress(path.read_bytes()) if packed else path.read_bytes()
            )
            order.append(name)
        (tree / "modules" / "order").write_text("\n".join(order))
        init = tree / "init"
        guest = Path(__file__).resolve().parent / "guest" / "init.sh"
        init.write_text(
            _INIT.format(init=shlex.quote(str(guest)), shared=shlex.quote(str(self._shared)))
        )
        init.chmod(0o755)
        names = "\0".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        with (self._directory / "initrd").open("wb") as archive:
            subprocess.run(
                ["cpio", "-o", "-0", "-H", "newc", "--quiet"],
                input=names.encode(),
                stdout=archive,
                cwd=tree,
                check=True,
            )

    def _command(self, kernel: Path) -> list[str]:
        shares = []
        for tag, path, more in (
            ("root", Path("/"), ",readonly=on"),
            ("shared", self._shared, ""),
        ):
            shares += [
                "-fsdev",
                f"local,id={tag},path={path},security_model=none,multidevs=remap{more}",
                "-device",
                f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
            ]
        return [
            # It ends with the tests, whatever ends them.
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "Nehalem"),
            *("-smp", str(self._processors), "-m", f"{self._memory_mib}M"),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-kernel", str(kernel), "-initrd", str(self._directory / "initrd")),
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off audit=0 apparmor=0 nokaslr tsc=reliable",
            *("-serial", f"file:{self._directory / 'console'}"),
            *shares,
            "-netdev",
            f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-10.0.2.15:22",
            *("-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"),
        ]

    def _wait(self) -> None:
        assert self._process is not None
        until_s = time.monotonic() + BOOT_LIMIT_S
        while not (self._shared / "ready").exists():
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise VmFailed(self.log())
            time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            LASTING.discard(self._process.pid)
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """What qemu, the kernel and the first process said."""
        paths = (
            self._directory / "qemu.log",
            self._directory / "console",
            self._shared / "log",
        )
        return "\n".join(path.read_text(errors="replace") for path in paths if path.exists())

    # --- what runs in it --------------------------------------------------------------------------

    def give(self, path: Path, name: str = "") -> str:
        """Put a copy of a file where the machine sees it too; its path, here and there."""
        return str(shutil.copy(path, self._shared / (name or path.name)))

    def ssh(self, host: str, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` as root on one of its hosts."""
        inside = shlex.join(argv if host == PLAIN else ["sh", "-c", _ON, host, *argv])
        return [
            *("ssh", "-p", str(self.port), "-i", str(self.key), "-T"),
            *("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=yes"),
            *("-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-o", "ControlMaster=auto"),
            *("-o", f"ControlPath={self._directory / 'control'}", "-o", "ControlPersist=600"),
            *("root@127.0.0.1", "--", inside),
        ]

    def run(self, host: str, *argv: str, check: bool = True, limit_s: float = 120) -> str:
        """What a command there printed, errors included.

        :raises VmFailed: its status was not 0, and ``check``.
        """
        done = subprocess.run(
            self.ssh(host, argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise VmFailed(f"{shlex.join(argv)} on {host}: status {done.returncode}\n{done.stdout}")
        return done.stdout


def _modules(release: str) -> Iterator[Path]:
    """Files of the needed modules, each after those that it needs."""
    seen = set()
    for module in _NEEDED:
        shown = subprocess.run(
            ["modprobe", "-S", release, "--show-depends", module],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        ).stdout
        for line in shown.splitlines():
            kind, path = line.split()[:2]
            if kind == "insmod" and path not in seen:
                seen.add(path)
                yield Path(path)


class Agent:
    """A Python process on one of the machine's hosts that calls functions for tests. It has
    imported what they need: that takes a minute there."""

    def __init__(self, vm: Vm, host: str, python: str) -> None:
        self._vm = vm
        top = Path(__file__).resolve().parents[2]
        argv = ["env", f"PYTHONPATH={top}", "PATH=" + _PATH, python, "-m", "tests.nfs.guest.agent"]
        self._process = subprocess.Popen(
            vm.ssh(host, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        LASTING.add(self._process.pid)

    def call(self, function: str, **arguments: Any) -> Any:
        """What ``tests.nfs.guest.<module>.<name>`` returned, for ``module.name``. In a process of
        its own; JSON values both ways.

        :raises VmFailed: with the traceback.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise VmFailed(f"the agent has ended with {self._process.wait()}\n{self._vm.log()}")
        succeeded, value = json.loads(line)
        if not succeeded:
            raise VmFailed(value)
        return value

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        LASTING.discard(self._process.pid)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextmanager
def agent(vm: Vm, host: str, python: str) -> Iterator[Agent]:
    """One on ``host``; it is gone at the end."""
    found = Agent(vm, host, python)
    try:
        yield found
    finally:
        found.close()
