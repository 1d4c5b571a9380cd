#include "run/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/io.h"
#include "base/mem.h"

err lock_take(const char *dir, int *fd) {
    char *path = io_join(dir, ".lock");
    err e = OK;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0) {
        e = ERR(ERR_IO, "cannot write %s: %s", path, strerror(errno));
    } else if (flock(*fd, LOCK_EX | LOCK_NB) != 0) {
        char holder[32] = "";
        ssize_t n = errno == EWOULDBLOCK ? pread(*fd, holder, sizeof holder - 1, 0) : 0;
        holder[n > 0 ? n : 0] = 0;
        holder[strcspn(holder, "\n")] = 0;
        e = errno == EWOULDBLOCK
                ? ERR(ERR_ENV, "%s is being written by another kvlab (process %s)", dir, *holder ? holder : "?")
                : ERR(ERR_IO, "cannot lock %s: %s", path, strerror(errno));
        close(*fd);
        *fd = -1;
    } else if (ftruncate(*fd, 0) != 0 || dprintf(*fd, "%ld\n", (long)getpid()) < 0) {
        e = ERR(ERR_IO, "cannot write %s: %s", path, strerror(errno));
        close(*fd);
        *fd = -1;
    }
    mem_free(path);
    return e;
}

void lock_release(int fd) {
    if (fd >= 0) close(fd);
}
