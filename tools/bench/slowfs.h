// SPDX-License-Identifier: Apache-2.0
/* What the parts of slowfs share: slowfs.c is the program, slowfs_names.c and slowfs_files.c answer
 * the kernel, slowfs_node.c keeps inodes, counts and the delay, slowfs_device.c is the mount. */
#ifndef SLOWFS_H
#define SLOWFS_H

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <sys/stat.h>

/* Kinds of requests, in the order of their names in slowfs_node.c. */
enum kind {
    LOOKUP, GETATTR, SETATTR, READLINK, MKNOD, MKDIR, UNLINK, RMDIR, SYMLINK, RENAME, LINK, OPEN,
    CREATE, READ, WRITE, FLUSH, RELEASE, FSYNC, OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR,
    STATFS, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FALLOCATE, LSEEK, COPY_FILE_RANGE, PROBE,
    KINDS
};

/* Counts one request of the kind and holds it back for the delay. */
void begin(enum kind kind);

/* Counts one request that a network file system would not have sent, or not have waited for. */
void count(enum kind kind);

/* Once, before the first request. */
void set_slowness(unsigned delay_us, double cache_seconds);

/* How long the kernel may keep names and attributes. */
double cache_s(void);

/* All counts as one JSON object, in a file that is whole once it is there; 0, or -1 with errno. */
int write_counts(const char *path);

/* An inode that the kernel knows: an O_PATH fd, under a name in /proc for calls that take paths. */
struct node {
    struct node *next;
    int fd;
    dev_t device;
    ino_t inode;
    uint64_t lookups;
    char path[32];
};

/* The root, once; NULL with errno. */
struct node *open_root(const char *path);

struct node *node_of(fuse_ino_t ino);

/* Finds ``name``, takes one reference for the kernel and fills ``entry`` but its timeouts; 0 or an
 * errno. */
int look_up(fuse_ino_t parent, const char *name, struct fuse_entry_param *entry);

void forget(fuse_ino_t ino, uint64_t lookups);

/* Answers: an errno when ``result`` is -1; the entry of that name; the inode's attributes. */
void reply_result(fuse_req_t req, int result);
void reply_made(fuse_req_t req, fuse_ino_t parent, const char *name, int result);
void reply_entry(fuse_req_t req, fuse_ino_t parent, const char *name);
void reply_attr(fuse_req_t req, fuse_ino_t ino);

/* 0, or -1 with errno. From then on the session reads requests. */
int mount_session(struct fuse_session *session, const char *mount_point);
void unmount_session(const char *mount_point);

void add_name_operations(struct fuse_lowlevel_ops *operations);
void add_file_operations(struct fuse_lowlevel_ops *operations);

#endif
