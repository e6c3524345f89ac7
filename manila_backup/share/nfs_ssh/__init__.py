# SPDX-License-Identifier: Apache-2.0
"""The ``nfs_ssh`` share provider: shares that are directories of a plain NFS server.

The server is managed through SSH and needs nothing of ours, only what Debian has (a POSIX shell,
coreutils, findutils, grep, util-linux, nfs-kernel-server). It keeps all the truth, the records of
the shares and who may mount them, so that any number of API processes and data nodes see the same.
What it is for operators is told in ``doc/nfs_ssh.md``.
"""
