// SPDX-License-Identifier: Apache-2.0
/* Requests about open files and directories. */
#define _GNU_SOURCE
#include "slowfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_READ_BYTES = 1 << 20 };

static _Thread_local char buffer[MAX_READ_BYTES];

/* --- open files --------------------------------------------------------------------------------- */

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    begin(OPEN);
    int fd = open(node_of(ino)->path, (fi->flags & ~(O_NOFOLLOW | O_CREAT | O_EXCL)) | O_CLOEXEC);
    if (fd < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    fi->fh = fd;
    fuse_reply_open(req, fi);
}

static void do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    struct fuse_entry_param entry = {.attr_timeout = cache_s(), .entry_timeout = cache_s()};

    begin(CREATE);
    int fd = openat(node_of(parent)->fd, name, fi->flags | O_CREAT | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    int error = look_up(parent, name, &entry);
    if (error) {
        close(fd);
        fuse_reply_err(req, error);
        return;
    }
    fi->fh = fd;
    fuse_reply_create(req, &entry, fi);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t bytes, off_t at, struct fuse_file_info *fi)
{
    (void)ino;
    begin(READ);
    ssize_t n = pread(fi->fh, buffer, bytes < MAX_READ_BYTES ? bytes : MAX_READ_BYTES, at);
    if (n < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_buf(req, buffer, n);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t bytes, off_t at,
                     struct fuse_file_info *fi)
{
    (void)ino;
    begin(WRITE);
    ssize_t n = pwrite(fi->fh, data, bytes, at);
    if (n < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_write(req, n);
}

/* Sent by close(2), whose caller waits for it. */
static void do_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    begin(FLUSH);
    reply_result(req, close(dup(fi->fh)));
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    count(RELEASE);
    close(fi->fh);
    fuse_reply_err(req, 0);
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    (void)ino;
    begin(FSYNC);
    reply_result(req, data_only ? fdatasync(fi->fh) : fsync(fi->fh));
}

static void do_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t at, off_t bytes,
                         struct fuse_file_info *fi)
{
    (void)ino;
    begin(FALLOCATE);
    reply_result(req, fallocate(fi->fh, mode, at, bytes));
}

static void do_lseek(fuse_req_t req, fuse_ino_t ino, off_t at, int whence, struct fuse_file_info *fi)
{
    (void)ino;
    begin(LSEEK);
    off_t found = lseek(fi->fh, at, whence);
    if (found < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_lseek(req, found);
}

static void do_copy_file_range(fuse_req_t req, fuse_ino_t ino, off_t from, struct fuse_file_info *fi,
                               fuse_ino_t to_ino, off_t to, struct fuse_file_info *to_fi,
                               size_t bytes, int flags)
{
    (void)ino;
    (void)to_ino;
    begin(COPY_FILE_RANGE);
    ssize_t n = copy_file_range(fi->fh, &from, to_fi->fh, &to, bytes, flags);
    if (n < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_write(req, n);
}

/* --- directories -------------------------------------------------------------------------------- */

static DIR *listing_of(const struct fuse_file_info *fi)
{
    return (DIR *)(uintptr_t)fi->fh;
}

static void do_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    begin(OPENDIR);
    int fd = openat(node_of(ino)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    if (!listing) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        fuse_reply_err(req, error);
        return;
    }
    fi->fh = (uintptr_t)listing;
    fuse_reply_open(req, fi);
}

/* One entry of the answer; its size, more than ``room`` when it does not fit. */
static size_t add_entry(fuse_req_t req, fuse_ino_t ino, char *at, size_t room,
                        const struct dirent *found, int plus)
{
    struct fuse_entry_param entry = {.attr_timeout = cache_s(), .entry_timeout = cache_s()};

    entry.attr.st_ino = found->d_ino;
    entry.attr.st_mode = DTTOIF(found->d_type);
    if (!plus)
        return fuse_add_direntry(req, at, room, found->d_name, &entry.attr, found->d_off);
    /* The kernel takes a reference for each entry but these two; one that is gone by now is listed
     * without (ino 0), as by READDIR. */
    if (strcmp(found->d_name, ".") && strcmp(found->d_name, ".."))
        look_up(ino, found->d_name, &entry);
    size_t bytes = fuse_add_direntry_plus(req, at, room, found->d_name, &entry, found->d_off);
    if (bytes > room && entry.ino)
        forget(entry.ino, 1);
    return bytes;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t room, off_t at, struct fuse_file_info *fi,
                 int plus)
{
    DIR *listing = listing_of(fi);
    char *answer = malloc(room);
    size_t used = 0;
    const struct dirent *found;

    if (!answer) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    if (telldir(listing) != at)
        seekdir(listing, at);
    while (errno = 0, (found = readdir(listing))) {
        size_t bytes = add_entry(req, ino, answer + used, room - used, found, plus);
        if (bytes > room - used)
            break; /* asked for again, at the offset of the one before */
        used += bytes;
    }
    if (!found && errno && !used)
        fuse_reply_err(req, errno);
    else
        fuse_reply_buf(req, answer, used);
    free(answer);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t room, off_t at,
                       struct fuse_file_info *fi)
{
    begin(READDIR);
    list(req, ino, room, at, fi, 0);
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t room, off_t at,
                           struct fuse_file_info *fi)
{
    begin(READDIRPLUS);
    list(req, ino, room, at, fi, 1);
}

static void do_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    count(RELEASEDIR);
    closedir(listing_of(fi));
    fuse_reply_err(req, 0);
}

static void do_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    (void)ino;
    (void)data_only;
    begin(FSYNCDIR);
    reply_result(req, fsync(dirfd(listing_of(fi))));
}

void add_file_operations(struct fuse_lowlevel_ops *operations)
{
    operations->open = do_open;
    operations->create = do_create;
    operations->read = do_read;
    operations->write = do_write;
    operations->flush = do_flush;
    operations->release = do_release;
    operations->fsync = do_fsync;
    operations->fallocate = do_fallocate;
    operations->lseek = do_lseek;
    operations->copy_file_range = do_copy_file_range;
    operations->opendir = do_opendir;
    operations->readdir = do_readdir;
    operations->readdirplus = do_readdirplus;
    operations->releasedir = do_releasedir;
    operations->fsyncdir = do_fsyncdir;
}
