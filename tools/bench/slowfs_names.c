// SPDX-License-Identifier: Apache-2.0
/* Requests about names, attributes and extended attributes. */
#define _GNU_SOURCE
#include "slowfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

/* --- names and attributes ---------------------------------------------------------------------- */

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    begin(LOOKUP);
    reply_entry(req, parent, name);
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
    forget(ino, lookups);
    fuse_reply_none(req);
}

static void do_forget_multi(fuse_req_t req, size_t n, struct fuse_forget_data *all)
{
    for (size_t i = 0; i < n; i++)
        forget(all[i].ino, all[i].nlookup);
    fuse_reply_none(req);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    begin(GETATTR);
    reply_attr(req, ino);
}

static struct timespec time_to_set(int set, int now, struct timespec time)
{
    if (set & now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    return set ? time : (struct timespec){.tv_nsec = UTIME_OMIT};
}

static int set_attr(const struct node *node, struct stat *wanted, int set)
{
    if (set & FUSE_SET_ATTR_SIZE && truncate(node->path, wanted->st_size) < 0)
        return -1;
    if (set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
        uid_t uid = set & FUSE_SET_ATTR_UID ? wanted->st_uid : (uid_t)-1;
        gid_t gid = set & FUSE_SET_ATTR_GID ? wanted->st_gid : (gid_t)-1;
        if (fchownat(node->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
            return -1;
    }
    if (set & FUSE_SET_ATTR_MODE && chmod(node->path, wanted->st_mode & 07777) < 0)
        return -1;
    if (set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)) {
        const struct timespec times[2] = {
            time_to_set(set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW),
                        FUSE_SET_ATTR_ATIME_NOW, wanted->st_atim),
            time_to_set(set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW),
                        FUSE_SET_ATTR_MTIME_NOW, wanted->st_mtim),
        };
        return utimensat(node->fd, "", times, AT_EMPTY_PATH);
    }
    return 0;
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *wanted, int set,
                       struct fuse_file_info *fi)
{
    (void)fi;
    begin(SETATTR);
    if (set_attr(node_of(ino), wanted, set) < 0)
        fuse_reply_err(req, errno);
    else
        reply_attr(req, ino);
}

static void do_readlink(fuse_req_t req, fuse_ino_t ino)
{
    char target[PATH_MAX];

    begin(READLINK);
    ssize_t bytes = readlinkat(node_of(ino)->fd, "", target, sizeof target - 1);
    if (bytes < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    target[bytes] = 0;
    fuse_reply_readlink(req, target);
}

static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct statvfs is;

    begin(STATFS);
    if (fstatvfs(node_of(ino)->fd, &is) < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_statfs(req, &is);
}

/* --- making and removing ------------------------------------------------------------------------ */

static void do_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
    begin(MKNOD);
    reply_made(req, parent, name, mknodat(node_of(parent)->fd, name, mode, device));
}

static void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    begin(MKDIR);
    reply_made(req, parent, name, mkdirat(node_of(parent)->fd, name, mode));
}

static void do_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    begin(SYMLINK);
    reply_made(req, parent, name, symlinkat(target, node_of(parent)->fd, name));
}

static void do_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    begin(LINK);
    int result = linkat(node_of(ino)->fd, "", node_of(parent)->fd, name, AT_EMPTY_PATH);
    reply_made(req, parent, name, result);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    begin(UNLINK);
    reply_result(req, unlinkat(node_of(parent)->fd, name, 0));
}

static void do_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    begin(RMDIR);
    reply_result(req, unlinkat(node_of(parent)->fd, name, AT_REMOVEDIR));
}

static void do_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    begin(RENAME);
    reply_result(req,
                 renameat2(node_of(parent)->fd, name, node_of(new_parent)->fd, new_name, flags));
}

/* --- extended attributes -------------------------------------------------------------------------- */

static void reply_value(fuse_req_t req, ssize_t bytes, size_t room, const char *value)
{
    if (bytes < 0)
        fuse_reply_err(req, errno);
    else if (!room)
        fuse_reply_xattr(req, bytes);
    else
        fuse_reply_buf(req, value, bytes);
}

static void do_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t bytes, int flags)
{
    begin(SETXATTR);
    reply_result(req, setxattr(node_of(ino)->path, name, value, bytes, flags));
}

static void do_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t room)
{
    char value[XATTR_SIZE_MAX];
    ssize_t bytes = getxattr(node_of(ino)->path, name, value, room < sizeof value ? room : sizeof value);
    int error = errno;

    if (bytes < 0 && error == ENODATA && !strcmp(name, "security.capability"))
        count(PROBE);
    else
        begin(GETXATTR);
    errno = error;
    reply_value(req, bytes, room, value);
}

static void do_listxattr(fuse_req_t req, fuse_ino_t ino, size_t room)
{
    char names[XATTR_LIST_MAX];

    begin(LISTXATTR);
    ssize_t bytes = listxattr(node_of(ino)->path, names, room < sizeof names ? room : sizeof names);
    reply_value(req, bytes, room, names);
}

static void do_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    begin(REMOVEXATTR);
    reply_result(req, removexattr(node_of(ino)->path, name));
}

void add_name_operations(struct fuse_lowlevel_ops *operations)
{
    operations->lookup = do_lookup;
    operations->forget = do_forget;
    operations->forget_multi = do_forget_multi;
    operations->getattr = do_getattr;
    operations->setattr = do_setattr;
    operations->readlink = do_readlink;
    operations->statfs = do_statfs;
    operations->mknod = do_mknod;
    operations->mkdir = do_mkdir;
    operations->symlink = do_symlink;
    operations->link = do_link;
    operations->unlink = do_unlink;
    operations->rmdir = do_rmdir;
    operations->rename = do_rename;
    operations->setxattr = do_setxattr;
    operations->getxattr = do_getxattr;
    operations->listxattr = do_listxattr;
    operations->removexattr = do_removexattr;
}
