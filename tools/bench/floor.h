// SPDX-License-Identifier: Apache-2.0
/* What the two halves of the floor share: floor.c walks, floor_entry.c copies what it finds. */
#ifndef FLOOR_H
#define FLOOR_H

#include <dirent.h>
#include <stdatomic.h>
#include <sys/stat.h>

/* A directory in work. It is complete when its last reference goes: its own listing, each batch of
 * its files and each subdirectory that is yet to be made hold one. */
struct directory {
    DIR *listing;
    int from, to;
    atomic_int references;
    char *path; /* relative to the root of the target, "." for itself */
};

extern atomic_ullong content_bytes; /* written */
extern atomic_ullong changed_count; /* files that changed while they were read */

_Noreturn void fail(const struct directory *directory, const char *name, const char *what);
void *allocated(void *memory);

/* Once, before the first copy: hard links are made relative to this fd. */
void start_entries(int target_root);

void copy_file(struct directory *directory, const char *name);
void copy_other(struct directory *directory, const char *name);

/* Owner, extended attributes, mode, times, in this order: each may undo what a later one sets.
 * ``created_with`` is the mode that ``to`` has; the mode is set when it differs. */
void copy_metadata(struct directory *directory, const char *name, int from, int to,
                   const struct stat *is, mode_t created_with);

#endif
