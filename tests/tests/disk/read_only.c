/*
 * Preloaded into a process: while the file READ_ONLY_WHEN exists, the folder READ_ONLY_FOLDER is on a file system that
 * the kernel has made read-only. Files that were open stay open and can be read; whatever would change something fails
 * with EROFS.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

static int is_inside(const char *path)
{
    const char *folder = getenv("READ_ONLY_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    return length && !strncmp(path, folder, length) && path[length] == '/';
}

static int is_read_only(void)
{
    const char *when = getenv("READ_ONLY_WHEN");
    return when && !access(when, F_OK);
}

static int refuses(const char *path)
{
    return is_inside(path) && is_read_only();
}

static int refuses_open(const char *path, int flags)
{
    return ((flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC)) && refuses(path);
}

static int refuses_file(int fd)
{
    char link[64], path[PATH_MAX];
    if (!is_read_only())
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_inside(path);
}

#define REFUSE_IF(refused, call)                                                                                       \
    if (refused) {                                                                                                     \
        errno = EROFS;                                                                                                 \
        return -1;                                                                                                     \
    }                                                                                                                  \
    return call

#define OPEN(path, flags, call)                                                                                        \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }                                                                                                                  \
    REFUSE_IF(refuses_open(path, flags), call)

int open(const char *path, int flags, ...) { OPEN(path, flags, REAL(open)(path, flags, mode)); }

int open64(const char *path, int flags, ...) { OPEN(path, flags, REAL(open64)(path, flags, mode)); }

int openat(int at, const char *path, int flags, ...) { OPEN(path, flags, REAL(openat)(at, path, flags, mode)); }

int openat64(int at, const char *path, int flags, ...) { OPEN(path, flags, REAL(openat64)(at, path, flags, mode)); }

ssize_t write(int fd, const void *bytes, size_t count) { REFUSE_IF(refuses_file(fd), REAL(write)(fd, bytes, count)); }

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REFUSE_IF(refuses_file(fd), REAL(writev)(fd, parts, count));
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    REFUSE_IF(refuses_file(fd), REAL(pwrite)(fd, bytes, count, offset));
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    REFUSE_IF(refuses_file(fd), REAL(pwrite64)(fd, bytes, count, offset));
}

int ftruncate(int fd, off_t length) { REFUSE_IF(refuses_file(fd), REAL(ftruncate)(fd, length)); }

int ftruncate64(int fd, off64_t length) { REFUSE_IF(refuses_file(fd), REAL(ftruncate64)(fd, length)); }

int fsync(int fd) { REFUSE_IF(refuses_file(fd), REAL(fsync)(fd)); }

int fdatasync(int fd) { REFUSE_IF(refuses_file(fd), REAL(fdatasync)(fd)); }

int unlink(const char *path) { REFUSE_IF(refuses(path), REAL(unlink)(path)); }

int rename(const char *from, const char *to) { REFUSE_IF(refuses(from) || refuses(to), REAL(rename)(from, to)); }
