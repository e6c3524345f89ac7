// SPDX-License-Identifier: Apache-2.0
/*
 * A file system that shows a directory as if it lay behind a slow line.
 *
 *     slowfs [-d DELAY_US] [-t THREADS] [-T CACHE_S] -c COUNTS_FILE DIRECTORY MOUNT_POINT
 *
 * Each request that a network file system would wait for is held back for the delay (1000 us), each
 * in a thread of its own, THREADS (96) at once. Names and attributes may be cached by the kernel for
 * CACHE_S (1) seconds. It stays in the foreground, writes "ready" to its output when it is mounted,
 * and the number of requests per kind to COUNTS_FILE, as JSON, on SIGUSR1 and when it ends (umount,
 * SIGTERM). It ends with its parent.
 *
 * For root only: it acts as root for whoever asks and leaves permissions to nobody. Extended
 * attributes and ACLs (as attributes) are passed on as they are. Not held back: RELEASE, which no
 * program waits for, and PROBE, the kernel's own question before a write whether a file that has no
 * capabilities has some, which NFS does not ask.
 */
#include "slowfs.h"

#include <errno.h>
#include <error.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static unsigned thread_count = 96, delay_us = 1000;
static double cache_seconds = 1.0;
static const char *counts_path;

/* Splicing costs more than it saves with requests this small. */
static void do_init(void *unused, struct fuse_conn_info *conn)
{
    (void)unused;
    conn->want &= ~(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    conn->max_background = thread_count;
    conn->congestion_threshold = thread_count;
}

static void read_options(int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "d:t:T:c:")) != -1) {
        switch (option) {
        case 'd': delay_us = strtoul(optarg, NULL, 10); break;
        case 't': thread_count = strtoul(optarg, NULL, 10); break;
        case 'T': cache_seconds = strtod(optarg, NULL); break;
        case 'c': counts_path = optarg; break;
        default: exit(2);
        }
    }
    if (argc - optind != 2 || !counts_path || thread_count < 1)
        error(2, 0, "usage: slowfs [-d US] [-t THREADS] [-T SECONDS] -c FILE DIRECTORY MOUNT_POINT");
}

static void prepare(void)
{
    struct rlimit fds;

    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_TIMERSLACK, 1000); /* ns: else each delay is 50 us longer than asked for */
    umask(0);
    if (getrlimit(RLIMIT_NOFILE, &fds) == 0) {
        fds.rlim_cur = fds.rlim_max; /* one per inode that the kernel knows */
        setrlimit(RLIMIT_NOFILE, &fds);
    }
}

/* All signals that mean something wait for the main thread. */
static sigset_t block_signals(void)
{
    const int all[] = {SIGUSR1, SIGTERM, SIGINT, SIGHUP};
    sigset_t signals;

    sigemptyset(&signals);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        sigaddset(&signals, all[i]);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    return signals;
}

/* One request after the other, until it is unmounted. */
static void *serve(void *session)
{
    struct fuse_buf request = {.mem = NULL};
    int bytes;

    while ((bytes = fuse_session_receive_buf(session, &request)) > 0 || bytes == -EINTR)
        if (bytes > 0)
            fuse_session_process_buf(session, &request);
    kill(getpid(), SIGTERM);
    return NULL;
}

/* All threads are there before the first request: libfuse's own loop makes them one after the other,
 * while requests wait. */
static void start_threads(struct fuse_session *session)
{
    pthread_t thread;

    for (unsigned i = 0; i < thread_count; i++) {
        errno = pthread_create(&thread, NULL, serve, session);
        if (errno)
            error(1, errno, "thread");
    }
}

static void save_counts(void)
{
    if (write_counts(counts_path) < 0)
        error(1, errno, "%s", counts_path);
}

static void wait_for_end(const sigset_t *signals)
{
    int signal;

    while (sigwait(signals, &signal) == 0 && signal == SIGUSR1)
        save_counts();
}

int main(int argc, char **argv)
{
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    struct fuse_lowlevel_ops operations = {.init = do_init};

    read_options(argc, argv);
    prepare();
    set_slowness(delay_us, cache_seconds);
    const sigset_t signals = block_signals();
    if (!open_root(argv[optind]))
        error(1, errno, "%s", argv[optind]);
    add_name_operations(&operations);
    add_file_operations(&operations);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (!session || mount_session(session, argv[optind + 1]) < 0)
        error(1, errno, "cannot mount on %s", argv[optind + 1]);
    start_threads(session);
    puts("ready");
    fflush(stdout);
    wait_for_end(&signals);
    unmount_session(argv[optind + 1]);
    save_counts();
    return 0;
}
