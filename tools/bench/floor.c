// SPDX-License-Identifier: Apache-2.0
/*
 * The floor of the copy benchmark: what a tree copy costs when nothing but the kernel is in the way.
 *
 *     floor [-j THREADS] SOURCE TARGET        (TARGET: an empty directory)
 *
 * It makes the system calls that a careful engine cannot do without, and no others: everything
 * relative to directory fds with O_NOFOLLOW, regular files opened with O_NONBLOCK and looked at
 * again after reading, targets made by O_EXCL and looked at once they are complete, all extended
 * attributes, ACLs among them, owners, modes, times in ns, holes, hard links, special files by mknod,
 * the times of directories last. Files up to one buffer are read and written, larger ones go through
 * sendfile. With threads the unit of work is a batch of files or a subdirectory.
 *
 * The first error ends the program with the path. Not here, because trees of the benchmark do not
 * need it: mounts within the tree, retries, paths longer than PATH_MAX, a target that is in use.
 */
#define _GNU_SOURCE
#include "floor.h"

#include <errno.h>
#include <error.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { BATCH_FILES = 8, MAX_THREADS = 1024 };
enum { OPEN_DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC };

/* A subdirectory to enter (one item) or a batch of other entries: items are a d_type, a name, NUL. */
struct task {
    struct task *next;
    struct directory *directory;
    bool enter;
    size_t bytes;
    char items[BATCH_FILES * (NAME_MAX + 2)];
};

static int thread_count = 1;
static atomic_ullong entry_count;
static struct task *stack;
static size_t unfinished;
static pthread_mutex_t stack_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t stack_changed = PTHREAD_COND_INITIALIZER;

_Noreturn void fail(const struct directory *directory, const char *name, const char *what)
{
    /* _exit and not exit: other threads are still at work. */
    fprintf(stderr, "floor: %s/%s: %s: %s\n", directory ? directory->path : "", name, what,
            strerror(errno));
    _exit(1);
}

void *allocated(void *memory)
{
    if (!memory)
        fail(NULL, "", "memory");
    return memory;
}

/* --- directories and the work ----------------------------------------------------------------- */

static void push(struct task *task)
{
    task->directory->references++;
    pthread_mutex_lock(&stack_lock);
    task->next = stack;
    stack = task;
    unfinished++;
    pthread_cond_signal(&stack_changed);
    pthread_mutex_unlock(&stack_lock);
}

static struct task *new_task(struct directory *directory, bool enter)
{
    struct task *task = allocated(malloc(sizeof *task));
    task->directory = directory;
    task->enter = enter;
    task->bytes = 0;
    return task;
}

static void add_item(struct task *task, const struct dirent *entry)
{
    size_t bytes = strlen(entry->d_name) + 1;
    task->items[task->bytes] = entry->d_type;
    memcpy(task->items + task->bytes + 1, entry->d_name, bytes);
    task->bytes += bytes + 1;
}

static void release(struct directory *directory)
{
    struct stat is;

    if (--directory->references)
        return;
    if (fstat(directory->from, &is) < 0)
        fail(directory, "", "stat");
    copy_metadata(directory, "", directory->from, directory->to, &is, 07777 + 1);
    closedir(directory->listing);
    if (close(directory->to) < 0)
        fail(directory, "", "close");
    free(directory->path);
    free(directory);
}

static void copy_entry(struct directory *directory, unsigned char type, const char *name)
{
    entry_count++;
    if (type == DT_REG)
        copy_file(directory, name);
    else
        copy_other(directory, name);
}

static unsigned char type_of(struct directory *directory, const struct dirent *entry)
{
    struct stat is;

    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type;
    if (fstatat(directory->from, entry->d_name, &is, AT_SYMLINK_NOFOLLOW) < 0)
        fail(directory, entry->d_name, "stat");
    return IFTODT(is.st_mode);
}

/* One thread copies files as it finds them; several are handed batches. */
static void list(struct directory *directory)
{
    struct task *batch = NULL;
    struct dirent *entry;
    size_t items = 0;

    while (errno = 0, (entry = readdir(directory->listing))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        entry->d_type = type_of(directory, entry);
        if (entry->d_type == DT_DIR) {
            struct task *task = new_task(directory, true);
            add_item(task, entry);
            push(task);
        } else if (thread_count == 1) {
            copy_entry(directory, entry->d_type, entry->d_name);
        } else {
            if (!batch)
                batch = new_task(directory, false);
            add_item(batch, entry);
            if (++items % BATCH_FILES == 0) {
                push(batch);
                batch = NULL;
            }
        }
    }
    if (errno)
        fail(directory, "", "readdir");
    if (batch)
        push(batch);
    release(directory);
}

static struct directory *new_directory(int from, int to, char *path)
{
    struct directory *directory = allocated(calloc(1, sizeof *directory));

    entry_count++;
    directory->from = from;
    directory->to = to;
    directory->path = path;
    directory->references = 1;
    directory->listing = from < 0 || to < 0 ? NULL : fdopendir(from);
    if (!directory->listing)
        fail(directory, "", "open");
    return directory;
}

static void enter(struct directory *parent, const char *name)
{
    int from = openat(parent->from, name, OPEN_DIRECTORY);
    char *path;

    if (mkdirat(parent->to, name, 0700) < 0)
        fail(parent, name, "mkdir");
    int to = openat(parent->to, name, OPEN_DIRECTORY);
    if (asprintf(&path, "%s/%s", parent->path, name) < 0)
        fail(parent, name, "memory");
    release(parent);
    list(new_directory(from, to, path));
}

static void perform(struct task *task)
{
    if (task->enter) {
        enter(task->directory, task->items + 1);
        return;
    }
    for (char *item = task->items; item < task->items + task->bytes; item += strlen(item + 1) + 2)
        copy_entry(task->directory, *item, item + 1);
    release(task->directory);
}

static void *work(void *unused)
{
    pthread_mutex_lock(&stack_lock);
    while (unfinished) {
        struct task *task = stack;
        if (!task) {
            pthread_cond_wait(&stack_changed, &stack_lock);
            continue;
        }
        stack = task->next;
        pthread_mutex_unlock(&stack_lock);
        perform(task);
        free(task);
        pthread_mutex_lock(&stack_lock);
        unfinished--;
    }
    pthread_cond_broadcast(&stack_changed);
    pthread_mutex_unlock(&stack_lock);
    return unused;
}

static void copy_tree(const char *source, const char *target)
{
    pthread_t threads[MAX_THREADS];

    int to = open(target, OPEN_DIRECTORY);
    struct directory *root =
        new_directory(open(source, OPEN_DIRECTORY), to, allocated(strdup(".")));
    start_entries(to);
    list(root);
    for (int i = 1; i < thread_count; i++)
        if ((errno = pthread_create(&threads[i], NULL, work, NULL)))
            fail(NULL, "", "thread");
    work(NULL);
    for (int i = 1; i < thread_count; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    struct rlimit fds;

    if (argc == 5 && !strcmp(argv[1], "-j"))
        thread_count = atoi(argv[2]);
    if ((argc != 3 && argc != 5) || thread_count < 1 || thread_count > MAX_THREADS)
        error(2, 0, "usage: floor [-j THREADS] SOURCE TARGET");
    umask(0);
    if (getrlimit(RLIMIT_NOFILE, &fds) == 0) {
        fds.rlim_cur = fds.rlim_max;
        setrlimit(RLIMIT_NOFILE, &fds);
    }
    copy_tree(argv[argc - 2], argv[argc - 1]);
    printf("{\"entries\": %llu, \"bytes\": %llu, \"changed\": %llu}\n", entry_count, content_bytes,
           changed_count);
    return fflush(stdout) ? 1 : 0;
}
