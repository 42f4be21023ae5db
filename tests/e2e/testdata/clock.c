/* Moves the wall clock of one program: clock_gettime(CLOCK_REALTIME) plus the seconds that stand in the file
   which CLOCK_OFFSET_FILE names, eight bytes in the machine's order. The monotonic clock stays as it is, as it does
   when somebody sets a machine's date. Built with `cc -shared -fPIC`, loaded with LD_PRELOAD. With
   `-DMOVED=CLOCK_MONOTONIC` it is the other way round: time passes, and the date stays. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef MOVED
#define MOVED CLOCK_REALTIME
#endif

static volatile int64_t none = 0;
static volatile int64_t *offset = &none;

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        _exit(97);
    void *map = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED)
        _exit(98);
    offset = map;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && (id == MOVED || (MOVED == CLOCK_REALTIME && id == CLOCK_REALTIME_COARSE)))
        now->tv_sec += *offset;
    return (int)failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}
