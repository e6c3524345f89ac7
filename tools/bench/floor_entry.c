// SPDX-License-Identifier: Apache-2.0
/* The entries of the floor: files, their attributes, hard links, and what is neither file nor
 * directory. */
#define _GNU_SOURCE
#include "floor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { BUFFER_BYTES = 128 << 10, XATTR_BYTES = 64 << 10, LINK_SLOTS = 1 << 16 };

/* An inode with several names. Whoever meets it first copies it; others wait until it is there. */
struct link {
    struct link *next;
    dev_t device;
    ino_t inode;
    bool complete;
    char *directory, *name;
};

/* The way to the attributes of an entry: an fd, or the name of an O_PATH fd in /proc. */
struct handle {
    int fd;
    char path[32];
};

atomic_ullong content_bytes, changed_count;
static int root_to;
static uid_t our_uid;
static gid_t our_gid;
static pthread_mutex_t link_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t link_done = PTHREAD_COND_INITIALIZER;
static struct link *links[LINK_SLOTS];
static _Thread_local char buffer[BUFFER_BYTES], xattr_names[XATTR_BYTES], xattr_value[XATTR_BYTES];

void start_entries(int target_root)
{
    root_to = dup(target_root);
    our_uid = geteuid();
    our_gid = getegid();
    if (root_to < 0)
        fail(NULL, "", "dup");
}

/* --- attributes ------------------------------------------------------------------------------ */

static struct handle handle_of_path_fd(int fd)
{
    struct handle handle = {.fd = fd};
    snprintf(handle.path, sizeof handle.path, "/proc/self/fd/%d", fd);
    return handle;
}

static ssize_t list_xattrs(const struct handle *entry)
{
    ssize_t bytes = entry->path[0] ? listxattr(entry->path, xattr_names, XATTR_BYTES)
                                   : flistxattr(entry->fd, xattr_names, XATTR_BYTES);
    return bytes < 0 && errno == ENOTSUP ? 0 : bytes;
}

/* False with errno: the first that could not be copied. */
static bool copy_xattrs(const struct handle *from, const struct handle *to, ssize_t names_bytes)
{
    for (const char *name = xattr_names; name < xattr_names + names_bytes; name += strlen(name) + 1) {
        ssize_t bytes = from->path[0] ? getxattr(from->path, name, xattr_value, XATTR_BYTES)
                                      : fgetxattr(from->fd, name, xattr_value, XATTR_BYTES);
        if (bytes < 0)
            return false;
        int result = to->path[0] ? setxattr(to->path, name, xattr_value, bytes, 0)
                                 : fsetxattr(to->fd, name, xattr_value, bytes, 0);
        if (result < 0)
            return false;
    }
    return true;
}

static void copy_times(const struct stat *from, struct timespec times[2])
{
    times[0] = (struct timespec){.tv_nsec = UTIME_OMIT};
    times[1] = from->st_mtim;
}

void copy_metadata(struct directory *directory, const char *name, int from, int to,
                          const struct stat *is, mode_t created_with)
{
    const struct handle source = {.fd = from}, target = {.fd = to};
    struct timespec times[2];
    ssize_t names_bytes = list_xattrs(&source);

    if (names_bytes < 0)
        fail(directory, name, "listxattr");
    bool owned = is->st_uid == our_uid && is->st_gid == our_gid;
    if (!owned && fchown(to, is->st_uid, is->st_gid) < 0)
        fail(directory, name, "chown");
    if (names_bytes && !copy_xattrs(&source, &target, names_bytes))
        fail(directory, name, "xattr");
    if ((is->st_mode & 07777) != created_with && fchmod(to, is->st_mode & 07777) < 0)
        fail(directory, name, "chmod");
    copy_times(is, times);
    if (futimens(to, times) < 0)
        fail(directory, name, "utimens");
}

/* --- hard links ------------------------------------------------------------------------------ */

/* The inode's link, its ``complete`` true when the copy is there; NULL: the caller must make it. */
static struct link *claimed(const struct stat *is, struct directory *directory, const char *name)
{
    struct link **slot = &links[(is->st_ino ^ is->st_dev) % LINK_SLOTS], *link;

    pthread_mutex_lock(&link_lock);
    for (link = *slot; link; link = link->next)
        if (link->inode == is->st_ino && link->device == is->st_dev)
            break;
    if (link) {
        while (!link->complete)
            pthread_cond_wait(&link_done, &link_lock);
        pthread_mutex_unlock(&link_lock);
        return link;
    }
    link = allocated(calloc(1, sizeof *link));
    link->device = is->st_dev;
    link->inode = is->st_ino;
    link->directory = allocated(strdup(directory->path));
    link->name = allocated(strdup(name));
    link->next = *slot;
    *slot = link;
    pthread_mutex_unlock(&link_lock);
    return NULL;
}

static void declare_complete(const struct stat *is)
{
    pthread_mutex_lock(&link_lock);
    for (struct link *link = links[(is->st_ino ^ is->st_dev) % LINK_SLOTS]; link; link = link->next)
        if (link->inode == is->st_ino && link->device == is->st_dev)
            link->complete = true;
    pthread_cond_broadcast(&link_done);
    pthread_mutex_unlock(&link_lock);
}

static void make_link(struct directory *directory, const char *name, const struct link *first)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    int fd = syscall(SYS_openat2, root_to, first->directory, &how, sizeof how);

    if (fd < 0 || linkat(fd, first->name, directory->to, name, 0) < 0)
        fail(directory, name, "link");
    close(fd);
}

/* --- content --------------------------------------------------------------------------------- */

static void write_all(struct directory *directory, const char *name, int to, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(to, buffer + done, bytes - done);
        if (n < 0)
            fail(directory, name, "write");
        done += n;
    }
}

/* Files that fit into the buffer: until their size is reached, or one read returns nothing. */
static size_t copy_small(struct directory *directory, const char *name, int from, int to, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = read(from, buffer + done, BUFFER_BYTES - done);
        if (n < 0)
            fail(directory, name, "read");
        if (n == 0)
            break;
        done += n;
    }
    write_all(directory, name, to, done);
    return done;
}

static size_t send_range(struct directory *directory, const char *name, int from, int to, off_t start,
                         off_t end)
{
    off_t position = start;

    if (lseek(to, start, SEEK_SET) < 0)
        fail(directory, name, "seek");
    while (position < end) {
        ssize_t n = sendfile(to, from, &position, end - position);
        if (n < 0)
            fail(directory, name, "sendfile");
        if (n == 0)
            break;
    }
    return position - start;
}

/* Large files and files with holes, extent by extent. The size is set for a hole at the end only:
 * xfs writes a file back at close that was truncated, even to the size it had. */
static size_t copy_large(struct directory *directory, const char *name, int from, int to, off_t size)
{
    size_t done = 0;
    off_t end = 0, start;

    while (end < size) {
        start = lseek(from, end, SEEK_DATA);
        if (start < 0 && errno == ENXIO)
            break;
        end = start < 0 ? -1 : lseek(from, start, SEEK_HOLE);
        if (end < 0)
            fail(directory, name, "seek");
        if (end > size)
            end = size;
        done += send_range(directory, name, from, to, start, end);
    }
    if (end < size && ftruncate(to, size) < 0)
        fail(directory, name, "truncate");
    return done;
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
           a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

void copy_file(struct directory *directory, const char *name)
{
    int from = openat(directory->from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), to;
    struct stat before, after, made;
    const struct link *first;

    if (from < 0 || fstat(from, &before) < 0)
        fail(directory, name, "open");
    if (!S_ISREG(before.st_mode)) {
        errno = ESTALE;
        fail(directory, name, "was a file");
    }
    if (before.st_nlink > 1 && (first = claimed(&before, directory, name))) {
        make_link(directory, name, first);
        close(from);
        return;
    }
    to = openat(directory->to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                before.st_mode & 0777);
    if (to < 0)
        fail(directory, name, "create");
    bool whole = before.st_size <= BUFFER_BYTES && before.st_blocks * 512 >= before.st_size;
    content_bytes += whole ? copy_small(directory, name, from, to, before.st_size)
                           : copy_large(directory, name, from, to, before.st_size);
    copy_metadata(directory, name, from, to, &before, before.st_mode & 0777);
    if (fstat(from, &after) < 0 || fstat(to, &made) < 0)
        fail(directory, name, "stat");
    changed_count += !is_same(&before, &after);
    if (made.st_size != before.st_size || made.st_mode != before.st_mode) {
        errno = EIO;
        fail(directory, name, "the copy differs");
    }
    if (close(to) < 0)
        fail(directory, name, "close");
    close(from);
    if (before.st_nlink > 1)
        declare_complete(&before);
}

/* --- everything that is neither file nor directory -------------------------------------------- */

static void make_other(struct directory *directory, const char *name, int from, const struct stat *is)
{
    if (S_ISREG(is->st_mode) || S_ISDIR(is->st_mode)) {
        errno = ESTALE;
        fail(directory, name, "was neither file nor directory");
    } else if (S_ISLNK(is->st_mode)) {
        ssize_t bytes = readlinkat(from, "", buffer, BUFFER_BYTES - 1);
        if (bytes < 0)
            fail(directory, name, "readlink");
        buffer[bytes] = 0;
        if (symlinkat(buffer, directory->to, name) < 0)
            fail(directory, name, "symlink");
    } else if (mknodat(directory->to, name, is->st_mode, is->st_rdev) < 0) {
        fail(directory, name, "mknod");
    }
}

void copy_other(struct directory *directory, const char *name)
{
    int from = openat(directory->from, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), to = -1;
    const struct link *first;
    struct timespec times[2];
    struct stat is;

    if (from < 0 || fstat(from, &is) < 0)
        fail(directory, name, "open");
    if (is.st_nlink > 1 && (first = claimed(&is, directory, name))) {
        make_link(directory, name, first);
        close(from);
        return;
    }
    make_other(directory, name, from, &is);
    if (fchownat(directory->to, name, is.st_uid, is.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
        fail(directory, name, "chown");
    const struct handle source = handle_of_path_fd(from);
    ssize_t names_bytes = list_xattrs(&source);
    if (names_bytes) {
        to = openat(directory->to, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        const struct handle target = handle_of_path_fd(to);
        if (names_bytes < 0 || to < 0 || !copy_xattrs(&source, &target, names_bytes))
            fail(directory, name, "xattr");
        close(to);
    }
    copy_times(&is, times);
    if (utimensat(directory->to, name, times, AT_SYMLINK_NOFOLLOW) < 0)
        fail(directory, name, "utimens");
    close(from);
    if (is.st_nlink > 1)
        declare_complete(&is);
}
