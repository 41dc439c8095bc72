/* Preloaded into a process, makes its file operations fail as hardware and file systems do.
 *
 * FAULT_READ=PATH:OFFSET   reads and in-kernel copies that touch PATH's byte OFFSET or one after it end with EIO
 * FAULT_FALLOCATE=1        reserving space succeeds and reserves nothing, as on a file system that cannot
 * FAULT_FSYNC=1            fsync of a safetensors file ends with EIO, as when delayed writes were lost
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int path_of(int fd, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = '\0';
    return length > 0;
}

static int broken(int fd, off64_t offset, size_t count)
{
    const char *fault = getenv("FAULT_READ");
    const char *colon = fault ? strrchr(fault, ':') : NULL;
    char path[PATH_MAX];
    if (!colon || offset + (off64_t)count <= atoll(colon + 1) || !path_of(fd, path))
        return 0;
    return strlen(path) == (size_t)(colon - fault) && strncmp(path, fault, colon - fault) == 0;
}

static ssize_t fail(void)
{
    errno = EIO;
    return -1;
}

static size_t total(const struct iovec *parts, int count)
{
    size_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += parts[i].iov_len;
    return sum;
}

ssize_t pread64(int fd, void *to, size_t count, off64_t offset)
{
    return broken(fd, offset, count) ? fail() : REAL(pread64)(fd, to, count, offset);
}

ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    return broken(fd, offset, total(parts, count)) ? fail() : REAL(preadv64)(fd, parts, count, offset);
}

ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
{
    return broken(fd, offset, total(parts, count)) ? fail() : REAL(preadv64v2)(fd, parts, count, offset, flags);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned int flags)
{
    off64_t offset = from ? *from : lseek64(in, 0, SEEK_CUR);
    return broken(in, offset, count) ? fail() : REAL(copy_file_range)(in, from, out, to, count, flags);
}

int posix_fallocate64(int fd, off64_t offset, off64_t count)
{
    return getenv("FAULT_FALLOCATE") ? 0 : REAL(posix_fallocate64)(fd, offset, count);
}

int fsync(int fd)
{
    char path[PATH_MAX];
    if (getenv("FAULT_FSYNC") && path_of(fd, path) && strstr(path, ".safetensors"))
        return (int)fail();
    return REAL(fsync)(fd);
}
