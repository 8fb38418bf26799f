/*
 * Preloaded into a process: notes what its writes overwrite, until they are synced.
 *
 * Watches the files of one folder (UNSYNCED_WATCHED; not of folders in it). Before each write or change of length of
 * such a file, an entry is appended to the file of the same name in UNSYNCED_UNDO:
 *
 *     offset, old length of the file, number of bytes n      three unsigned numbers of 64 bits
 *     the n bytes that stood at offset
 *
 * When the file was synced, its undo file is removed. Whoever applies the entries of a dead process, newest first, has
 * the files as they were last synced. A process killed between the entry and the write is undone by an entry that
 * changes nothing.
 *
 * One lock around everything: two threads never note the same bytes in the wrong order, and no write slips in between a
 * sync and the removal. What cannot be noted ends the process: a test that has lost track must not go on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST_DESCRIPTORS 4096
#define LONGEST_NAME 256

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* The name of the watched file behind each descriptor, empty for all others. */
static char names[MOST_DESCRIPTORS][LONGEST_NAME];

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

static void lost_track(const char *what)
{
    fprintf(stderr, "unsynced: %s: %s\n", what, strerror(errno));
    abort();
}

/* The name of a watched file, or NULL when it is none. */
static const char *watched(const char *path)
{
    const char *folder = getenv("UNSYNCED_WATCHED");
    size_t length = folder ? strlen(folder) : 0;
    if (!length || strncmp(path, folder, length) || path[length] != '/')
        return NULL;
    const char *name = path + length + 1;
    return *name && !strchr(name, '/') && strlen(name) < LONGEST_NAME ? name : NULL;
}

static const char *name_of(int fd)
{
    return fd >= 0 && fd < MOST_DESCRIPTORS && names[fd][0] ? names[fd] : NULL;
}

static void undo_path(const char *name, char path[PATH_MAX])
{
    const char *folder = getenv("UNSYNCED_UNDO");
    if (!folder || snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
        lost_track("no place for undo files");
}

static void note_all(int undo, const void *bytes, size_t count)
{
    const char *at = bytes;
    while (count) {
        ssize_t written = REAL(write)(undo, at, count);
        if (written <= 0)
            lost_track("cannot write an undo file");
        at += written;
        count -= (size_t)written;
    }
}

/* Notes what stands in a file at [offset, offset + count). */
static void note(const char *name, int fd, off_t offset, size_t count)
{
    struct stat status;
    if (fstat(fd, &status))
        lost_track("cannot look at a watched file");
    size_t there = offset < status.st_size ? (size_t)(status.st_size - offset) : 0;
    if (there > count)
        there = count;
    uint64_t head[3] = {(uint64_t)offset, (uint64_t)status.st_size, there};
    char *entry = malloc(sizeof head + there);
    if (!entry)
        lost_track("no memory");
    memcpy(entry, head, sizeof head);
    /* Read through the descriptor itself where it can be: closing another one of the same file would drop the locks
     * that SQLite holds. What is open for writing alone is not SQLite's. */
    int reader = fd;
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        reader = REAL(open)(path, O_RDONLY | O_CLOEXEC);
    }
    for (size_t done = 0; done < there;) {
        ssize_t got = pread(reader, entry + sizeof head + done, there - done, offset + (off_t)done);
        if (got <= 0)
            lost_track("cannot read what is overwritten");
        done += (size_t)got;
    }
    if (reader != fd)
        REAL(close)(reader);
    char path[PATH_MAX];
    undo_path(name, path);
    int undo = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (undo < 0)
        lost_track("cannot open an undo file");
    note_all(undo, entry, sizeof head + there);
    REAL(close)(undo);
    free(entry);
}

/* Where write() would write. */
static off_t position(int fd)
{
    struct stat status;
    if (fcntl(fd, F_GETFL) & O_APPEND)
        return fstat(fd, &status) ? 0 : status.st_size;
    return lseek(fd, 0, SEEK_CUR);
}

static void forget(const char *name)
{
    char path[PATH_MAX];
    undo_path(name, path);
    if (REAL(unlink)(path) && errno != ENOENT)
        lost_track("cannot empty an undo file");
}

static int opened(int fd, const char *path)
{
    const char *name = watched(path);
    if (fd >= MOST_DESCRIPTORS && name)
        lost_track("too many descriptors");
    if (fd >= 0 && fd < MOST_DESCRIPTORS)
        strcpy(names[fd], name ? name : "");
    return fd;
}

/* Before a file is opened empty, what it holds is noted. */
static void opening(const char *path, int flags)
{
    const char *name = watched(path);
    int fd = name && (flags & O_TRUNC) ? REAL(open)(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd >= 0) {
        note(name, fd, 0, SIZE_MAX);
        REAL(close)(fd);
    }
}

#define OPEN(path, flags, call)                                                                                        \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }                                                                                                                  \
    pthread_mutex_lock(&lock);                                                                                         \
    opening(path, flags);                                                                                              \
    int fd = opened(call, path);                                                                                       \
    pthread_mutex_unlock(&lock);                                                                                       \
    return fd

int open(const char *path, int flags, ...) { OPEN(path, flags, REAL(open)(path, flags, mode)); }

int open64(const char *path, int flags, ...) { OPEN(path, flags, REAL(open64)(path, flags, mode)); }

int openat(int at, const char *path, int flags, ...) { OPEN(path, flags, REAL(openat)(at, path, flags, mode)); }

int openat64(int at, const char *path, int flags, ...) { OPEN(path, flags, REAL(openat64)(at, path, flags, mode)); }

int close(int fd)
{
    pthread_mutex_lock(&lock);
    if (name_of(fd))
        names[fd][0] = 0;
    int result = REAL(close)(fd);
    pthread_mutex_unlock(&lock);
    return result;
}

/* A change of a watched file is noted and made under the lock; all others go straight on. */
#define CHANGE(type, offset, count, call)                                                                              \
    if (!name_of(fd))                                                                                                  \
        return call;                                                                                                   \
    pthread_mutex_lock(&lock);                                                                                         \
    const char *name = name_of(fd);                                                                                    \
    if (name)                                                                                                          \
        note(name, fd, offset, count);                                                                                 \
    type result = call;                                                                                                \
    pthread_mutex_unlock(&lock);                                                                                       \
    return result

static size_t total(const struct iovec *parts, int count)
{
    size_t bytes = 0;
    for (int part = 0; part < count; part++)
        bytes += parts[part].iov_len;
    return bytes;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    CHANGE(ssize_t, position(fd), count, REAL(write)(fd, bytes, count));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    CHANGE(ssize_t, position(fd), total(parts, count), REAL(writev)(fd, parts, count));
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    CHANGE(ssize_t, offset, count, REAL(pwrite)(fd, bytes, count, offset));
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    CHANGE(ssize_t, offset, count, REAL(pwrite64)(fd, bytes, count, offset));
}

int ftruncate(int fd, off_t length)
{
    CHANGE(int, length, SIZE_MAX, REAL(ftruncate)(fd, length));
}

int ftruncate64(int fd, off64_t length)
{
    CHANGE(int, length, SIZE_MAX, REAL(ftruncate64)(fd, length));
}

#define SYNC(call)                                                                                                     \
    if (!name_of(fd))                                                                                                  \
        return call;                                                                                                   \
    pthread_mutex_lock(&lock);                                                                                         \
    const char *name = name_of(fd);                                                                                    \
    int result = call;                                                                                                 \
    if (name && !result)                                                                                               \
        forget(name);                                                                                                  \
    pthread_mutex_unlock(&lock);                                                                                       \
    return result

int fsync(int fd) { SYNC(REAL(fsync)(fd)); }

int fdatasync(int fd) { SYNC(REAL(fdatasync)(fd)); }

int unlink(const char *path)
{
    pthread_mutex_lock(&lock);
    int result = REAL(unlink)(path);
    if (!result && watched(path))
        forget(watched(path));
    pthread_mutex_unlock(&lock);
    return result;
}

/* The file takes what can be undone of it along to its new name. */
int rename(const char *from, const char *to)
{
    pthread_mutex_lock(&lock);
    int result = REAL(rename)(from, to);
    if (!result && watched(from) && watched(to)) {
        char before[PATH_MAX], after[PATH_MAX];
        undo_path(watched(from), before);
        undo_path(watched(to), after);
        forget(watched(to));
        if (REAL(rename)(before, after) && errno != ENOENT)
            lost_track("cannot rename an undo file");
    }
    pthread_mutex_unlock(&lock);
    return result;
}
