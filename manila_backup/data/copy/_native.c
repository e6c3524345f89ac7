// SPDX-License-Identifier: Apache-2.0
/*
 * The fast path for small files, one call for a slice of names, the GIL released meanwhile.
 *
 * small.py has the contract, and a twin of all this in Python: what is changed here is changed
 * there. System errors are never raised: the file in question is answered with None or False, and
 * nothing of it is left behind. The only state is a flag that openat2 is not to be had.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define SLICE 16
#define SMALL_BYTES (256 << 10)
#define LIST_BYTES (16 << 10)
#define XATTR_BYTES (64 << 10)
#define USUAL_BYTES 512 /* the kernel takes, and clears, as much memory as it is offered */
#define ONE_BLOCK 4096
#define HOLE_BYTES 512 /* no file system has smaller holes */
#define NS_PER_S 1000000000LL
#define LONG_NS 200000000LL /* nobody can cancel meanwhile */
#define LISTED_BYTES (32 << 10)
#define KINDS 3
#define FIELDS_READ 9
#define FIELDS_WRITTEN 7

#ifndef SYS_openat2
#define SYS_openat2 437 /* the same number on every architecture but alpha, whose headers have it */
#endif

static const char ACCESS_ACL[] = "system.posix_acl_access";
static const char NFS4_ACL[] = "system.nfs4_acl";
static const char *const ACLS[] = {ACCESS_ACL, "system.posix_acl_default", NFS4_ACL};

/* --- opening ----------------------------------------------------------------------------------- */

/* struct open_how and its flags, as openat2(2) has them: the headers may be older than the kernel */
struct how {
    uint64_t flags, mode, resolve;
};
enum { NO_XDEV = 0x01, NO_MAGICLINKS = 0x02, NO_SYMLINKS = 0x04, BENEATH = 0x08 };

static atomic_bool no_openat2;

static int openat2_(int dir_fd, const char *name, uint64_t flags, uint64_t resolve)
{
    struct how how = {.flags = flags, .resolve = resolve};
    return (int)syscall(SYS_openat2, dir_fd, name, &how, sizeof how);
}

/* Whether openat2 is there and allowed: a seccomp filter answers EPERM, and so may a file. */
static bool openat2_works(void)
{
    int fd = openat2_(AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0);
    if (fd >= 0)
        close(fd);
    return fd >= 0 || (errno != ENOSYS && errno != EPERM);
}

/* Which mount an fd is on; bind mounts differ, which st_dev does not tell. */
static bool mount_id(int fd, uint64_t *id)
{
#ifdef STATX_MNT_ID
    struct statx info;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &info) == 0 && info.stx_mask & STATX_MNT_ID) {
        *id = info.stx_mnt_id;
        return true;
    }
#endif
    (void)fd;
    (void)id;
    return false;
}

/* Open a name right in the directory, on the directory's own mount. */
static int open_here(int dir_fd, const char *name)
{
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    if (!atomic_load(&no_openat2)) {
        int fd = openat2_(dir_fd, name, flags, BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV);
        if (fd >= 0 || (errno != ENOSYS && errno != EPERM) || openat2_works())
            return fd;
        atomic_store(&no_openat2, true);
    }
    int fd = openat(dir_fd, name, flags);
    uint64_t here, there;
    if (fd >= 0 && !(mount_id(fd, &there) && mount_id(dir_fd, &here) && there == here)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* A name of one component, as bytes that the kernel reads to their end; or NULL. */
static const char *component(PyObject *name)
{
    const char *text = PyBytes_AS_STRING(name);
    size_t length = (size_t)PyBytes_GET_SIZE(name);
    if (!length || strlen(text) != length || memchr(text, '/', length))
        return NULL;
    return strcmp(text, ".") && strcmp(text, "..") ? text : NULL;
}

/* --- reading ----------------------------------------------------------------------------------- */

/* What was read of one file; the rest is only to be looked at if `whole`. */
struct taken {
    bool whole;
    struct stat info;
    int64_t mtime_ns, ctime_ns;
    char *content;
    char *xattrs; /* records of two lengths, a name with its NUL and a value */
    size_t xattrs_bytes;
};

struct lengths {
    uint32_t name, value;
};

/* Room for the attributes of one file, with one byte more for the names' last NUL. */
struct room {
    char list[LIST_BYTES + 1];
    char records[XATTR_BYTES];
};

static bool in_ns(struct timespec time, int64_t *ns)
{
    return !__builtin_mul_overflow((int64_t)time.tv_sec, (int64_t)NS_PER_S, ns) &&
           !__builtin_add_overflow(*ns, (int64_t)time.tv_nsec, ns);
}

static bool has_no_xattrs(int number)
{
    return number == ENOTSUP || number == EOPNOTSUPP || number == ENOSYS;
}

static ssize_t list_xattrs(int fd, char *list)
{
    ssize_t got = flistxattr(fd, list, USUAL_BYTES);
    return got < 0 && errno == ERANGE ? flistxattr(fd, list, LIST_BYTES) : got;
}

static ssize_t get_xattr(int fd, const char *name, char *value, size_t room)
{
    ssize_t got = fgetxattr(fd, name, value, room < USUAL_BYTES ? room : USUAL_BYTES);
    return got < 0 && errno == ERANGE ? fgetxattr(fd, name, value, room) : got;
}

/* Collect all attributes as records; false if one cannot be read, or they are too many. */
static bool collect_xattrs(int fd, struct room *room, size_t *used)
{
    *used = 0;
    ssize_t listed = list_xattrs(fd, room->list);
    if (listed < 0)
        return has_no_xattrs(errno);
    room->list[listed] = '\0';
    size_t length;
    for (char *name = room->list; name < room->list + listed; name += length + 1) {
        length = strlen(name);
        if (!strcmp(name, "trusted.SGI_ACL_FILE") || !strcmp(name, "trusted.SGI_ACL_DEFAULT"))
            continue; /* XFS shows root its ACLs twice */
        size_t head = *used + sizeof(struct lengths) + length + 1;
        if (head >= XATTR_BYTES) /* with no room at all the kernel would answer a length only */
            return false;
        ssize_t got = get_xattr(fd, name, room->records + head, XATTR_BYTES - head);
        if (got < 0 && has_no_xattrs(errno))
            continue;
        if (got < 0)
            return false;
        struct lengths lengths = {.name = (uint32_t)length, .value = (uint32_t)got};
        memcpy(room->records + *used, &lengths, sizeof lengths);
        memcpy(room->records + *used + sizeof lengths, name, length + 1);
        *used = head + (size_t)got;
    }
    return true;
}

static bool read_xattrs(int fd, struct room *room, struct taken *file)
{
    if (!collect_xattrs(fd, room, &file->xattrs_bytes))
        return false;
    if (!file->xattrs_bytes)
        return true;
    file->xattrs = malloc(file->xattrs_bytes);
    if (file->xattrs)
        memcpy(file->xattrs, room->records, file->xattrs_bytes);
    return file->xattrs != NULL;
}

/* One byte more is asked for than there should be: the answer proves that the file ends there. */
static bool read_content(int fd, struct taken *file)
{
    size_t size = (size_t)file->info.st_size;
    if (!size)
        return true;
    file->content = malloc(size + 1);
    return file->content && pread(fd, file->content, size + 1, 0) == (ssize_t)size;
}

/* Fewer blocks than its size needs: then it is known before anything is read. */
static bool lacks_blocks(int fd, const struct taken *file)
{
    off_t size = file->info.st_size;
    return file->info.st_blocks * 512 < size && lseek(fd, 0, SEEK_HOLE) < size;
}

static bool is_zero(const char *data, size_t size)
{
    return !data[0] && !memcmp(data, data + 1, size - 1);
}

static bool has_zeros(const struct taken *file)
{
    size_t size = (size_t)file->info.st_size;
    for (size_t at = 0; at < size; at += HOLE_BYTES)
        if (is_zero(file->content + at, size - at < HOLE_BYTES ? size - at : HOLE_BYTES))
            return true;
    return false;
}

/* A hole reads as zeros, so what has none needs no request to prove that there is no hole. Nor does
 * a file of at most one page all of whose blocks are there; but blocks that attributes have taken
 * count too. Blocks that were never written are no hole any more while what was read of them is
 * cached. */
static bool has_hole(int fd, const struct taken *file)
{
    off_t size = file->info.st_size;
    if (!size || (size <= ONE_BLOCK && !file->xattrs_bytes && file->info.st_blocks * 512 >= size))
        return false;
    if (!has_zeros(file))
        return false;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return lseek(fd, 0, SEEK_HOLE) < size;
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool unchanged(int fd, const struct stat *before)
{
    struct stat after;
    return fstat(fd, &after) == 0 && after.st_size == before->st_size &&
           same_time(after.st_mtim, before->st_mtim) && same_time(after.st_ctim, before->st_ctim);
}

static bool take_opened(int fd, struct room *room, struct taken *file)
{
    const struct stat *info = &file->info;
    if (fstat(fd, &file->info) != 0 || !S_ISREG(info->st_mode) || info->st_nlink != 1)
        return false;
    if (info->st_size < 0 || info->st_size > SMALL_BYTES)
        return false;
    if (!in_ns(info->st_mtim, &file->mtime_ns) || !in_ns(info->st_ctim, &file->ctime_ns))
        return false;
    return !lacks_blocks(fd, file) && read_xattrs(fd, room, file) && read_content(fd, file) &&
           !has_hole(fd, file) && unchanged(fd, info);
}

static void drop(struct taken *file)
{
    free(file->content);
    free(file->xattrs);
    file->content = file->xattrs = NULL;
    file->xattrs_bytes = 0;
}

static void take(int dir_fd, const char *name, struct room *room, struct taken *file)
{
    *file = (struct taken){.whole = false};
    int fd = name ? open_here(dir_fd, name) : -1;
    if (fd < 0)
        return;
    file->whole = take_opened(fd, room, file);
    close(fd); /* nothing was written */
    if (!file->whole)
        drop(file);
}

static Py_ssize_t held_bytes(const struct taken *file)
{
    Py_ssize_t content = file->content ? (Py_ssize_t)file->info.st_size : 0;
    return content + (Py_ssize_t)file->xattrs_bytes;
}

/* --- reading, the Python side ------------------------------------------------------------------ */

static PyObject *xattrs_object(const struct taken *file)
{
    if (!file->xattrs_bytes)
        Py_RETURN_NONE;
    PyObject *found = PyDict_New();
    const char *end = file->xattrs + file->xattrs_bytes;
    for (const char *at = file->xattrs; found && at < end;) {
        struct lengths lengths;
        memcpy(&lengths, at, sizeof lengths);
        at += sizeof lengths;
        PyObject *name = PyBytes_FromStringAndSize(at, lengths.name);
        at += lengths.name + 1;
        PyObject *value = PyBytes_FromStringAndSize(at, lengths.value);
        at += lengths.value;
        if (!name || !value || PyDict_SetItem(found, name, value) != 0)
            Py_CLEAR(found);
        Py_XDECREF(name);
        Py_XDECREF(value);
    }
    return found;
}

/* An instance of `kind`, a subclass of tuple without fields of its own (a NamedTuple). */
static PyObject *taken_object(PyTypeObject *kind, const struct taken *file)
{
    PyObject *made = kind->tp_alloc(kind, FIELDS_READ);
    if (!made)
        return NULL;
    const struct stat *info = &file->info;
    PyObject *fields[FIELDS_READ] = {
        PyLong_FromUnsignedLong(info->st_mode & 07777),
        PyLong_FromUnsignedLong(info->st_uid),
        PyLong_FromUnsignedLong(info->st_gid),
        PyLong_FromLongLong(info->st_size),
        PyLong_FromLongLong(file->mtime_ns),
        PyLong_FromLongLong(file->ctime_ns),
        PyLong_FromUnsignedLongLong(info->st_ino),
        xattrs_object(file),
        PyBytes_FromStringAndSize(file->content, file->content ? info->st_size : 0),
    };
    bool complete = true;
    for (int i = 0; i < FIELDS_READ; i++) {
        complete = complete && fields[i];
        PyTuple_SET_ITEM(made, i, fields[i]);
    }
    if (!complete)
        Py_CLEAR(made);
    return made;
}

static PyObject *taken_list(PyTypeObject *kind, struct taken *files, Py_ssize_t count)
{
    PyObject *answer = PyList_New(count);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *made = NULL;
        if (answer && files[i].whole)
            made = taken_object(kind, &files[i]);
        else if (answer)
            made = Py_NewRef(Py_None);
        drop(&files[i]);
        if (made)
            PyList_SET_ITEM(answer, i, made);
        else
            Py_CLEAR(answer);
    }
    return answer;
}

/* The slice's objects, to be held as long as the GIL is not: its list may be changed meanwhile. */
static Py_ssize_t hold(PyObject *sequence, PyObject **held)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    for (Py_ssize_t i = 0; i < count; i++)
        held[i] = Py_NewRef(PySequence_Fast_GET_ITEM(sequence, i));
    return count;
}

static void let_go(PyObject **held, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        Py_DECREF(held[i]);
}

static bool check_slice(PyObject *sequence)
{
    if (PyList_Check(sequence) || PyTuple_Check(sequence)) {
        if (PySequence_Fast_GET_SIZE(sequence) <= SLICE)
            return true;
        PyErr_Format(PyExc_ValueError, "more than %d at once", SLICE);
        return false;
    }
    PyErr_SetString(PyExc_TypeError, "a list or tuple is needed");
    return false;
}

/* Also what the kernel is to read of them, NULL if it is to read nothing; -1: an error is set. */
static Py_ssize_t hold_names(PyObject *names, PyObject **held, const char **texts)
{
    Py_ssize_t count = hold(names, held);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyBytes_Check(held[i])) {
            let_go(held, count);
            PyErr_SetString(PyExc_TypeError, "names are bytes");
            return -1;
        }
        texts[i] = component(held[i]);
    }
    return count;
}

static bool is_tuple_type(PyTypeObject *kind)
{
    if (PyType_IsSubtype(kind, &PyTuple_Type))
        return true;
    PyErr_SetString(PyExc_TypeError, "a subclass of tuple is needed");
    return false;
}

static PyObject *native_read(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *kind;
    int dir_fd;
    PyObject *names, *held[SLICE];
    Py_ssize_t budget;
    if (!PyArg_ParseTuple(args, "O!iOn", &PyType_Type, &kind, &dir_fd, &names, &budget))
        return NULL;
    if (!is_tuple_type(kind) || !check_slice(names))
        return NULL;
    const char *texts[SLICE];
    Py_ssize_t count = hold_names(names, held, texts);
    if (count < 0)
        return NULL;
    struct taken files[SLICE];
    Py_ssize_t done = 0;
    Py_BEGIN_ALLOW_THREADS
    struct room room;
    while (done < count && (budget > 0 || !done)) {
        take(dir_fd, texts[done], &room, &files[done]);
        budget -= held_bytes(&files[done]);
        done++;
    }
    Py_END_ALLOW_THREADS
    let_go(held, count);
    return taken_list(kind, files, done);
}

/* --- writing ----------------------------------------------------------------------------------- */

struct xattr {
    const char *name;
    const char *value;
    size_t size;
    bool is_acl;
};

/* One file to be made; what the pointers lead to is held by the Python objects below. */
struct item {
    bool usable;
    const char *name;
    const char *content;
    size_t size;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    struct timespec mtime;
    struct xattr *xattrs;
    Py_ssize_t xattr_count;
    bool has_acl, has_plain;
    struct xattr of_mode; /* an NFSv4 ACL that says no more than the mode; not among the others */
    PyObject *pairs;
};

enum { OF_MODE_BYTES = 512 };

/* The NFSv4 ACL that a new file was seen to have by itself. What a server makes of a mode depends on
 * the server, and on whether the file was made with it or got it later, as its owner did. */
struct implied {
    mode_t mode;
    int must;
    size_t size; /* 0: none was seen */
    char value[OF_MODE_BYTES];
};

enum { OWNER = 1, MODE = 2, TIME = 4, CONTENT = 8, FAILED = 16 };

/* What new files of this slice turn out to have without being given it. */
struct habits {
    uid_t uid;
    gid_t gid;
    bool owner_differs; /* these two were wrong: give the owner always */
    bool strips_acl;    /* the directory has a default ACL, which new files inherit */
    mode_t denied;      /* bits that a new file lacked (the umask) */
    struct implied implied;
};

/* May the file have its mode from the start? Not if the wrong group would have more access than
 * the right one until its owner is set, nor if an ACL is still to narrow it, nor if an ordinary
 * owner could not set attributes any more. */
static bool at_once(const struct item *item, const struct habits *habits)
{
    if (item->mode & 07000 || item->has_acl || habits->strips_acl || item->mode & habits->denied)
        return false;
    return (item->mode >> 3 & 7) == (item->mode & 7) && (!item->has_plain || item->mode & 0200);
}

static bool set_xattrs(int fd, const struct item *item, bool acls)
{
    for (Py_ssize_t i = 0; i < item->xattr_count; i++) {
        const struct xattr *xattr = &item->xattrs[i];
        if (xattr->is_acl == acls && fsetxattr(fd, xattr->name, xattr->value, xattr->size, 0) != 0)
            return false;
    }
    return true;
}

static bool strip_acl(int fd, const struct item *item)
{
    for (Py_ssize_t i = 0; i < item->xattr_count; i++)
        if (!strcmp(item->xattrs[i].name, ACCESS_ACL))
            return true; /* it was replaced */
    return fremovexattr(fd, ACCESS_ACL) == 0 || errno == ENODATA;
}

static bool is_owned(const struct stat *info, const struct item *item)
{
    return info->st_uid == item->uid && info->st_gid == item->gid;
}

/* A setuid program must not come to belong to somebody else, whatever chown answered. */
static bool set_mode(int fd, const struct item *item)
{
    struct stat info;
    if (item->mode & 06000 && (fstat(fd, &info) != 0 || !is_owned(&info, item)))
        return false;
    return fchmod(fd, item->mode) == 0;
}

static bool is_implied(const struct implied *implied, const struct item *item, int must)
{
    return implied->size && implied->size == item->of_mode.size && implied->mode == item->mode &&
           implied->must == must &&
           !memcmp(implied->value, item->of_mode.value, implied->size);
}

/* Whether the open file has the NFSv4 ACL that says what its mode does; given, if it has another.
 * One is looked at, the others that are made like it have it, too: that saves them a request. */
static bool has_acl_of_mode(int fd, const struct item *item, int must, struct implied *implied)
{
    const struct xattr *wanted = &item->of_mode;
    if (!wanted->name || is_implied(implied, item, must))
        return true;
    char found[OF_MODE_BYTES];
    ssize_t size = fgetxattr(fd, NFS4_ACL, found, sizeof found);
    bool is_there = size >= 0 && (size_t)size == wanted->size &&
                    !memcmp(found, wanted->value, wanted->size);
    bool is_needless = size < 0 && (errno == ENOTSUP || errno == ENODATA);
    if (!is_there && !is_needless) {
        if (size < 0 && errno != ERANGE && errno != EACCES && errno != EPERM)
            return false;
        return fsetxattr(fd, NFS4_ACL, wanted->value, wanted->size, 0) == 0;
    }
    *implied = (struct implied){.mode = item->mode, .must = must, .size = wanted->size};
    memcpy(implied->value, wanted->value, wanted->size);
    return true;
}

/* Give the open file what `must` says and all that belongs after it; answers what is not as it
 * shall be. */
static int dress(int fd, const struct item *item, int must, struct habits *habits,
                 struct stat *info)
{
    if (must & OWNER && fchown(fd, item->uid, item->gid) != 0)
        return FAILED;
    if (item->has_plain && !set_xattrs(fd, item, false))
        return FAILED;
    if (habits->strips_acl && !strip_acl(fd, item))
        return FAILED;
    if (must & MODE && !set_mode(fd, item))
        return FAILED;
    if (item->has_acl && !set_xattrs(fd, item, true))
        return FAILED;
    if (!has_acl_of_mode(fd, item, must & (OWNER | MODE), &habits->implied))
        return FAILED;
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, item->mtime};
    if (futimens(fd, times) != 0 || fstat(fd, info) != 0)
        return FAILED;
    return (is_owned(info, item) ? 0 : OWNER) |
           ((info->st_mode & 07777) == item->mode ? 0 : MODE) |
           (same_time(info->st_mtim, item->mtime) ? 0 : TIME) |
           ((size_t)info->st_size == item->size ? 0 : CONTENT);
}

static bool write_content(int fd, const struct item *item)
{
    size_t done = 0;
    while (done < item->size) {
        ssize_t written = write(fd, item->content + done, item->size - done);
        if (written <= 0)
            return false;
        done += (size_t)written;
    }
    return true;
}

/* True: `made` is what the file is now, exactly as asked. */
static bool fill(int fd, const struct item *item, bool has_mode, struct habits *habits,
                 struct stat *made)
{
    if (!write_content(fd, item))
        return false;
    bool is_ours = !habits->owner_differs && item->uid == habits->uid && item->gid == habits->gid;
    int must = (is_ours ? 0 : OWNER) | (has_mode ? 0 : MODE);
    int wrong = dress(fd, item, must, habits, made);
    if (!wrong || wrong & (FAILED | CONTENT))
        return !wrong;
    if (is_ours && wrong & OWNER)
        habits->owner_differs = true;
    if (has_mode)
        habits->denied |= item->mode & ~made->st_mode;
    /* Giving an owner takes setuid bits and capabilities away, so all is done once more. */
    return !dress(fd, item, (wrong & OWNER) | MODE, habits, made);
}

/* Remove the file that was made, if the name still means it. `made` NULL: nothing more is known of
 * it; then it is removed unseen, as the careful way would what is in its way. */
static void take_back(int dir_fd, const char *name, const struct stat *made)
{
    struct stat info;
    if (made) {
        if (fstatat(dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0)
            return;
        if (info.st_dev != made->st_dev || info.st_ino != made->st_ino)
            return;
    }
    unlinkat(dir_fd, name, 0);
}

static bool put(int dir_fd, const struct item *item, struct habits *habits)
{
    if (!item->usable)
        return false;
    bool has_mode = at_once(item, habits);
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(dir_fd, item->name, flags, has_mode ? item->mode : 0600);
    if (fd < 0)
        return false;
    struct stat made;
    bool good = fill(fd, item, has_mode, habits, &made);
    bool known = good || fstat(fd, &made) == 0;
    good = close(fd) == 0 && good; /* close tells of writes that failed late (NFS) */
    if (!good)
        take_back(dir_fd, item->name, known ? &made : NULL);
    return good;
}

static bool is_acl(const char *name)
{
    for (size_t i = 0; i < sizeof ACLS / sizeof *ACLS; i++)
        if (!strcmp(name, ACLS[i]))
            return true;
    return false;
}

static uint32_t word(const char *at)
{
    const unsigned char *bytes = (const unsigned char *)at;
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static bool is_special(const char *who, uint32_t size)
{
    return (size == 6 && (!memcmp(who, "OWNER@", 6) || !memcmp(who, "GROUP@", 6))) ||
           (size == 9 && !memcmp(who, "EVERYONE@", 9));
}

/* nfs4_acl.is_trivial. */
static bool is_of_mode(const char *value, size_t size)
{
    if (size < 4)
        return false;
    size_t at = 4;
    for (uint32_t left = word(value); left; left--) {
        if (size - at < 16)
            return false;
        uint32_t kind = word(value + at), flags = word(value + at + 4);
        uint32_t mask = word(value + at + 8), who = word(value + at + 12);
        at += 16;
        if (kind > 1 || flags & 0xf || who > size - at || !is_special(value + at, who))
            return false;
        if (kind == 0 && value[at] != 'O' && mask & 0xd0000)
            return false;
        at += (who + 3) & ~(size_t)3;
        if (at > size)
            return false;
    }
    return at == size;
}

static void give(struct item *item, const char *name, const char *value, size_t size)
{
    struct xattr xattr = {.name = name, .value = value, .size = size, .is_acl = is_acl(name)};
    if (!strcmp(name, NFS4_ACL) && size <= OF_MODE_BYTES && is_of_mode(value, size)) {
        item->of_mode = xattr;
        return;
    }
    item->xattrs[item->xattr_count++] = xattr;
    *(xattr.is_acl ? &item->has_acl : &item->has_plain) = true;
}

static struct timespec timespec_of(int64_t time_ns)
{
    int64_t ns = time_ns % NS_PER_S;
    return (struct timespec){.tv_sec = (time_t)(time_ns / NS_PER_S - (ns < 0)),
                             .tv_nsec = (long)(ns < 0 ? ns + NS_PER_S : ns)};
}

/* --- writing, the Python side ------------------------------------------------------------------ */

static bool parse_xattr(PyObject *pair, struct item *item)
{
    PyObject *name = PyTuple_GET_ITEM(pair, 0), *value = PyTuple_GET_ITEM(pair, 1);
    if (!PyBytes_Check(name) || !PyBytes_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "names and values of xattrs are bytes");
        return false;
    }
    give(item, PyBytes_AS_STRING(name), PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));
    if (strlen(PyBytes_AS_STRING(name)) != (size_t)PyBytes_GET_SIZE(name))
        item->usable = false;
    return true;
}

static bool parse_xattrs(PyObject *xattrs, struct item *item)
{
    if (xattrs == Py_None)
        return true;
    item->pairs = PyMapping_Items(xattrs); /* a list of our own, which nobody changes */
    if (!item->pairs)
        return false;
    Py_ssize_t count = PyList_GET_SIZE(item->pairs);
    if (!count)
        return true;
    item->xattrs = calloc((size_t)count, sizeof *item->xattrs);
    if (!item->xattrs) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyList_GET_ITEM(item->pairs, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "xattrs are a mapping");
            return false;
        }
        if (!parse_xattr(pair, item))
            return false;
    }
    return true;
}

/* A whole number; one that is too big, as a catalog may have it, makes the item unusable. */
static bool parse_int(PyObject *value, long long low, long long high, struct item *item,
                      long long *answer)
{
    int overflow;
    *answer = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (*answer == -1 && PyErr_Occurred())
        return false;
    if (overflow || *answer < low || *answer > high)
        item->usable = false;
    return true;
}

static bool parse_numbers(PyObject *given, struct item *item)
{
    long long mode, uid, gid, mtime_ns;
    if (!parse_int(PyTuple_GET_ITEM(given, 2), 0, 07777, item, &mode) ||
        !parse_int(PyTuple_GET_ITEM(given, 3), 0, UINT32_MAX - 1LL, item, &uid) ||
        !parse_int(PyTuple_GET_ITEM(given, 4), 0, UINT32_MAX - 1LL, item, &gid) ||
        !parse_int(PyTuple_GET_ITEM(given, 5), INT64_MIN, INT64_MAX, item, &mtime_ns))
        return false;
    item->mode = (mode_t)mode;
    item->uid = (uid_t)uid;
    item->gid = (gid_t)gid;
    item->mtime = timespec_of(mtime_ns);
    return true;
}

static bool parse(PyObject *given, struct item *item)
{
    if (!PyTuple_Check(given) || PyTuple_GET_SIZE(given) != FIELDS_WRITTEN ||
        !PyBytes_Check(PyTuple_GET_ITEM(given, 0)) || !PyBytes_Check(PyTuple_GET_ITEM(given, 1))) {
        PyErr_SetString(PyExc_TypeError, "items are tuples that begin with name and content");
        return false;
    }
    item->name = component(PyTuple_GET_ITEM(given, 0));
    item->usable = item->name != NULL;
    item->content = PyBytes_AS_STRING(PyTuple_GET_ITEM(given, 1));
    item->size = (size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(given, 1));
    return parse_numbers(given, item) && parse_xattrs(PyTuple_GET_ITEM(given, 6), item);
}

static PyObject *put_all(int dir_fd, struct item *items, Py_ssize_t count, struct habits *habits)
{
    bool good[SLICE];
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count; i++)
        good[i] = put(dir_fd, &items[i], habits);
    Py_END_ALLOW_THREADS
    PyObject *answer = PyList_New(count);
    for (Py_ssize_t i = 0; answer && i < count; i++)
        PyList_SET_ITEM(answer, i, Py_NewRef(good[i] ? Py_True : Py_False));
    return answer;
}

static PyObject *native_write(PyObject *module, PyObject *args)
{
    (void)module;
    int dir_fd, strips_acl;
    PyObject *given, *held[SLICE];
    unsigned int uid, gid;
    if (!PyArg_ParseTuple(args, "iO(IIp)", &dir_fd, &given, &uid, &gid, &strips_acl) ||
        !check_slice(given))
        return NULL;
    struct habits habits = {.uid = uid, .gid = gid, .strips_acl = strips_acl};
    struct item items[SLICE];
    memset(items, 0, sizeof items);
    Py_ssize_t count = hold(given, held);
    bool parsed = true;
    for (Py_ssize_t i = 0; parsed && i < count; i++)
        parsed = parse(held[i], &items[i]);
    PyObject *answer = parsed ? put_all(dir_fd, items, count, &habits) : NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        free(items[i].xattrs);
        Py_XDECREF(items[i].pairs);
    }
    let_go(held, count);
    return answer;
}

/* --- copying ----------------------------------------------------------------------------------- */

/* What small.Wish has. */
struct wish {
    unsigned int mask, need;
    int replace, keep;
};

/* The new file that is to be like the one that was read, which goes on holding what it points to. */
static bool item_of(const struct taken *file, const char *name, const struct wish *wish,
                    struct item *item)
{
    const struct stat *info = &file->info;
    *item = (struct item){.usable = true,
                          .name = name,
                          .content = file->content,
                          .size = (size_t)info->st_size,
                          .mode = info->st_mode & 07777 & wish->mask,
                          .uid = info->st_uid,
                          .gid = info->st_gid,
                          .mtime = info->st_mtim};
    if (!file->xattrs_bytes)
        return true;
    item->xattrs = calloc(file->xattrs_bytes / sizeof(struct lengths), sizeof *item->xattrs);
    if (!item->xattrs)
        return false;
    const char *end = file->xattrs + file->xattrs_bytes;
    for (const char *at = file->xattrs; at < end;) {
        struct lengths lengths;
        memcpy(&lengths, at, sizeof lengths);
        const char *text = at + sizeof lengths, *value = text + lengths.name + 1;
        give(item, text, value, lengths.value);
        at = value + lengths.value;
    }
    return true;
}

/* Make in the target what was read. What is there is replaced, if that takes no more than an
 * unlink. */
static bool make_like(int target_fd, const struct taken *file, const char *name,
                      const struct wish *wish, struct habits *habits)
{
    struct item item;
    if (wish->replace)
        unlinkat(target_fd, name, 0);
    bool good = item_of(file, name, wish, &item) && put(target_fd, &item, habits);
    free(item.xattrs);
    return good;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static PyObject *native_copy(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *kind;
    int source_fd, target_fd, strips_acl;
    PyObject *names, *held[SLICE];
    Py_ssize_t budget;
    struct wish wish;
    unsigned int uid, gid;
    if (!PyArg_ParseTuple(args, "O!(ii)On(IIpp)(IIp)", &PyType_Type, &kind, &source_fd, &target_fd,
                          &names, &budget, &wish.mask, &wish.need, &wish.replace, &wish.keep, &uid,
                          &gid, &strips_acl))
        return NULL;
    if (!is_tuple_type(kind) || !check_slice(names))
        return NULL;
    const char *texts[SLICE];
    Py_ssize_t count = hold_names(names, held, texts);
    if (count < 0)
        return NULL;
    struct habits habits = {.uid = uid, .gid = gid, .strips_acl = strips_acl};
    struct taken files[SLICE];
    Py_ssize_t done = 0, unwritten = 0;
    Py_BEGIN_ALLOW_THREADS
    struct room room;
    int64_t until_ns = now_ns() + LONG_NS;
    while (done < count && (!done || (budget > 0 && now_ns() < until_ns))) {
        struct taken *file = &files[done];
        take(source_fd, texts[done], &room, file);
        bool wanted = file->whole && (file->info.st_mode & wish.need) == wish.need;
        file->whole = wanted && make_like(target_fd, file, texts[done], &wish, &habits);
        unwritten += wanted && !file->whole;
        if (!file->whole || !wish.keep)
            drop(file);
        budget -= held_bytes(file);
        done++;
    }
    Py_END_ALLOW_THREADS
    let_go(held, count);
    PyObject *answers = taken_list(kind, files, done);
    return answers ? Py_BuildValue("(Nn)", answers, unwritten) : NULL;
}

/* --- listing ----------------------------------------------------------------------------------- */

/* struct linux_dirent64, as getdents64(2) has it. */
struct listed {
    uint64_t inode;
    int64_t next;
    uint16_t length;
    uint8_t type;
    char name[];
};

/* Which of the three kinds a name is; file systems that do not say are asked. */
static int kind_of(int dir_fd, const struct listed *entry)
{
    struct stat info;
    mode_t mode = DTTOIF(entry->type);
    if (entry->type == DT_UNKNOWN)
        mode = fstatat(dir_fd, entry->name, &info, AT_SYMLINK_NOFOLLOW) == 0 ? info.st_mode : 0;
    return S_ISDIR(mode) ? 0 : S_ISREG(mode) ? 1 : 2;
}

static bool is_itself_or_above(const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..");
}

/* Pairs of a name and one of `kinds`. */
static PyObject *listed_pairs(int dir_fd, const char *data, long bytes, PyObject *kinds)
{
    PyObject *answer = PyList_New(0);
    const struct listed *entry;
    for (long at = 0; answer && at < bytes; at += entry->length) {
        entry = (const struct listed *)(data + at);
        if (is_itself_or_above(entry->name))
            continue;
        PyObject *kind = PyTuple_GET_ITEM(kinds, kind_of(dir_fd, entry));
        PyObject *pair = Py_BuildValue("(yO)", entry->name, kind);
        if (!pair || PyList_Append(answer, pair) != 0)
            Py_CLEAR(answer);
        Py_XDECREF(pair);
    }
    return answer;
}

static PyObject *native_names(PyObject *module, PyObject *args)
{
    (void)module;
    int dir_fd;
    PyObject *kinds;
    if (!PyArg_ParseTuple(args, "iO!", &dir_fd, &PyTuple_Type, &kinds))
        return NULL;
    if (PyTuple_GET_SIZE(kinds) != KINDS) {
        PyErr_Format(PyExc_ValueError, "%d kinds are needed", KINDS);
        return NULL;
    }
    PyObject *answer = NULL;
    long bytes = 0;
    char *data = malloc(LISTED_BYTES);
    if (!data)
        return PyErr_NoMemory();
    do { /* a portion may hold nothing but "." and ".." */
        Py_BEGIN_ALLOW_THREADS
        bytes = syscall(SYS_getdents64, dir_fd, data, (size_t)LISTED_BYTES);
        Py_END_ALLOW_THREADS
        Py_CLEAR(answer);
        if (bytes < 0 && errno == ENOENT)
            bytes = 0; /* the directory was removed: nothing is in it, as readdir(3) has it */
        answer = bytes < 0 ? PyErr_SetFromErrno(PyExc_OSError)
                           : listed_pairs(dir_fd, data, bytes, kinds);
    } while (answer && bytes && !PyList_GET_SIZE(answer));
    free(data);
    return answer;
}

/* --- the module -------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"read", native_read, METH_VARARGS, "read(kind, dir_fd, names, budget) -> list"},
    {"write", native_write, METH_VARARGS,
     "write(dir_fd, items, habits) -> list"},
    {"copy", native_copy, METH_VARARGS,
     "copy(kind, fds, names, budget, wish, habits) -> (list, unwritten)"},
    {"names", native_names, METH_VARARGS,
     "names(dir_fd, kinds) -> list: the next portion, empty at the end"},
    {NULL, NULL, 0, NULL},
};

/* Without openat2 and without mount ids in statx nothing could be opened; the twin knows a way. */
static int execute(PyObject *module)
{
    uint64_t id;
    if (!openat2_works()) {
        int fd = open("/", O_PATH | O_CLOEXEC);
        bool known = fd >= 0 && mount_id(fd, &id);
        if (fd >= 0)
            close(fd);
        if (!known) {
            PyErr_SetString(PyExc_ImportError, "this kernel has neither openat2 nor mount ids");
            return -1;
        }
    }
    return PyModule_AddIntConstant(module, "SLICE", SLICE) ||
                   PyModule_AddIntConstant(module, "SMALL_BYTES", SMALL_BYTES) ||
                   PyModule_AddIntConstant(module, "XATTR_BYTES", XATTR_BYTES)
               ? -1
               : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "manila_backup.data.copy._native",
    .m_doc = "The fast path for small files in C; manila_backup.data.copy.small is its door.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
