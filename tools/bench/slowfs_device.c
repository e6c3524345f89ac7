// SPDX-License-Identifier: Apache-2.0
/*
 * The kernel's end: mounting, and the way of requests and answers.
 *
 * libfuse before 3.17 knows FUSE_CAP_PARALLEL_DIROPS but does not tell the kernel
 * (https://github.com/libfuse/libfuse/pull/861), which then sends look-ups in one directory one after
 * the other, as no network file system does. So the first answer, the one to INIT, gets the flag on
 * its way out; for that the device must be ours, and with it the mount.
 */
#define _GNU_SOURCE
#include "slowfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

static ssize_t receive(int fd, void *to, size_t bytes, void *unused)
{
    (void)unused;
    return read(fd, to, bytes);
}

static ssize_t answer(int fd, struct iovec *parts, int count, void *unused)
{
    static atomic_bool greeted;

    (void)unused;
    if (!atomic_exchange(&greeted, true) && count == 2) {
        struct fuse_init_out *init = parts[1].iov_base;
        init->flags |= FUSE_PARALLEL_DIROPS;
    }
    return writev(fd, parts, count);
}

int mount_session(struct fuse_session *session, const char *mount_point)
{
    static const struct fuse_custom_io device = {.read = receive, .writev = answer};
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    char options[128];

    if (fd < 0)
        return -1;
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd);
    if (mount("slowfs", mount_point, "fuse", MS_NOSUID | MS_NODEV, options) < 0)
        return -1;
    errno = -fuse_session_custom_io(session, &device, fd);
    return errno ? -1 : 0;
}

void unmount_session(const char *mount_point)
{
    /* Gone already when umount(8) has ended us. */
    umount2(mount_point, MNT_DETACH);
}
