// SPDX-License-Identifier: Apache-2.0
/* The inodes that the kernel knows, the counts of what it asked, and answers made of both. */
#define _GNU_SOURCE
#include "slowfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { NODE_SLOTS = 1 << 16 };

static const char *const names[KINDS] = {
    "LOOKUP", "GETATTR", "SETATTR", "READLINK", "MKNOD", "MKDIR", "UNLINK", "RMDIR", "SYMLINK",
    "RENAME", "LINK", "OPEN", "CREATE", "READ", "WRITE", "FLUSH", "RELEASE", "FSYNC", "OPENDIR",
    "READDIR", "READDIRPLUS", "RELEASEDIR", "FSYNCDIR", "STATFS", "SETXATTR", "GETXATTR",
    "LISTXATTR", "REMOVEXATTR", "FALLOCATE", "LSEEK", "COPY_FILE_RANGE", "PROBE",
};
static atomic_ullong counts[KINDS];
static struct timespec delay;
static double cache_time_s;
static struct node *root, *nodes[NODE_SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void set_slowness(unsigned delay_us, double cache_seconds)
{
    delay.tv_sec = delay_us / 1000000;
    delay.tv_nsec = delay_us % 1000000 * 1000;
    cache_time_s = cache_seconds;
}

double cache_s(void)
{
    return cache_time_s;
}

void count(enum kind kind)
{
    atomic_fetch_add_explicit(&counts[kind], 1, memory_order_relaxed);
}

void begin(enum kind kind)
{
    count(kind);
    if (delay.tv_sec || delay.tv_nsec)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &delay, NULL);
}

int write_counts(const char *path)
{
    char draft[PATH_MAX];
    FILE *file;

    snprintf(draft, sizeof draft, "%s.draft", path);
    file = fopen(draft, "w");
    if (!file)
        return -1;
    for (int kind = 0; kind < KINDS; kind++)
        fprintf(file, "%s\"%s\": %llu", kind ? ", " : "{", names[kind], atomic_load(&counts[kind]));
    fprintf(file, "}\n");
    return fclose(file) ? -1 : rename(draft, path);
}

static struct node *new_node(int fd, const struct stat *is)
{
    struct node *node = calloc(1, sizeof *node);

    if (!node)
        return NULL;
    node->fd = fd;
    node->device = is->st_dev;
    node->inode = is->st_ino;
    node->lookups = 1;
    snprintf(node->path, sizeof node->path, "/proc/self/fd/%d", fd);
    return node;
}

struct node *open_root(const char *path)
{
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stat is;

    if (fd < 0 || fstat(fd, &is) < 0)
        return NULL;
    return root = new_node(fd, &is);
}

struct node *node_of(fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? root : (struct node *)ino;
}

static struct node **slot_of(dev_t device, ino_t inode)
{
    return &nodes[(device ^ inode) % NODE_SLOTS];
}

/* The node of the inode behind ``fd``, which is kept in a new node or closed. An inode number is not
 * used again while a node has its fd, so (device, inode) finds the right one. */
static struct node *referenced(int fd, const struct stat *is)
{
    struct node **slot = slot_of(is->st_dev, is->st_ino), *node;

    pthread_mutex_lock(&lock);
    for (node = *slot; node; node = node->next)
        if (node->inode == is->st_ino && node->device == is->st_dev)
            break;
    if (node) {
        node->lookups++;
        close(fd);
    } else if ((node = new_node(fd, is))) {
        node->next = *slot;
        *slot = node;
    } else {
        close(fd);
    }
    pthread_mutex_unlock(&lock);
    return node;
}

int look_up(fuse_ino_t parent, const char *name, struct fuse_entry_param *entry)
{
    int fd = openat(node_of(parent)->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return errno;
    if (fstat(fd, &entry->attr) < 0) {
        int error = errno;
        close(fd);
        return error;
    }
    struct node *node = referenced(fd, &entry->attr);
    if (!node)
        return ENOMEM;
    entry->ino = (fuse_ino_t)node;
    return 0;
}

void forget(fuse_ino_t ino, uint64_t lookups)
{
    struct node *node = node_of(ino);

    if (node == root)
        return;
    pthread_mutex_lock(&lock);
    node->lookups -= lookups;
    if (!node->lookups) {
        struct node **at = slot_of(node->device, node->inode);
        while (*at != node)
            at = &(*at)->next;
        *at = node->next;
    } else {
        node = NULL;
    }
    pthread_mutex_unlock(&lock);
    if (node) {
        close(node->fd);
        free(node);
    }
}

/* --- answers ------------------------------------------------------------------------------------ */

void reply_result(fuse_req_t req, int result)
{
    fuse_reply_err(req, result < 0 ? errno : 0);
}

void reply_entry(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.attr_timeout = cache_s(), .entry_timeout = cache_s()};
    int error = look_up(parent, name, &entry);

    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_entry(req, &entry);
}

void reply_made(fuse_req_t req, fuse_ino_t parent, const char *name, int result)
{
    if (result < 0)
        fuse_reply_err(req, errno);
    else
        reply_entry(req, parent, name);
}

void reply_attr(fuse_req_t req, fuse_ino_t ino)
{
    struct stat is;

    if (fstat(node_of(ino)->fd, &is) < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_attr(req, &is, cache_s());
}
