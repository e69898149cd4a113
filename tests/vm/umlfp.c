/*
 * Stands between user-mode Linux 6.1 and ptrace(2), for the floating point state of its processes.
 *
 * It keeps 2696 bytes of state per process and hands exactly those to PTRACE_SETREGSET; a kernel on a CPU with AMX wants 11008
 * and refuses less, which ends in "Attempted to kill init".  So a short write becomes: read the whole state, replace its
 * beginning, say that the tile registers are not in use, write the whole.  On any other CPU nothing is changed.
 *
 * And it writes the state before each return to a process, which is the dearest part of a kernel call, although what is
 * written is nearly always what was read when the process stopped, which has not run since.  Then nothing is done.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#define XSTATE_HEADER 512
#define TILE_FEATURES (3ULL << 17)

#define REMEMBERED 256

/* The state of stopped processes, as it was last read or written; size is 0 where it is not known. */
static struct {
    pid_t pid;
    size_t size;
    char state[4096];
} remembered[REMEMBERED];

static long (*next_ptrace)(int, pid_t, void *, void *);
static char whole_state[32768] __attribute__((aligned(64)));

static long write_state(pid_t pid, void *set, struct iovec *given)
{
    struct iovec whole = {whole_state, sizeof whole_state};
    long result = next_ptrace(PTRACE_SETREGSET, pid, set, given);

    if (result == 0 || next_ptrace(PTRACE_GETREGSET, pid, set, &whole) != 0 || whole.iov_len <= given->iov_len)
        return result;
    memcpy(whole_state, given->iov_base, given->iov_len);
    *(uint64_t *)(whole_state + XSTATE_HEADER) &= ~TILE_FEATURES;
    return next_ptrace(PTRACE_SETREGSET, pid, set, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (!next_ptrace)
        next_ptrace = dlsym(RTLD_NEXT, "ptrace");
    int known = (unsigned)pid % REMEMBERED;
    if (request == PTRACE_GETREGS || request == PTRACE_SETREGS)
        return next_ptrace(request, pid, address, data);
    if ((request != PTRACE_GETREGSET && request != PTRACE_SETREGSET) || address != (void *)NT_X86_XSTATE) {
        /* It may run. */
        if (remembered[known].pid == pid)
            remembered[known].size = 0;
        return next_ptrace(request, pid, address, data);
    }
    struct iovec *given = data;
    /* What was asked for may be more than there is; the kernel ignores the rest, and corrects the length. */
    if (request == PTRACE_SETREGSET && remembered[known].pid == pid && remembered[known].size &&
        remembered[known].size <= given->iov_len &&
        memcmp(remembered[known].state, given->iov_base, remembered[known].size) == 0)
        return 0;
    long result = request == PTRACE_SETREGSET ? write_state(pid, address, given)
                                              : next_ptrace(request, pid, address, data);
    remembered[known].size = 0;
    if (result == 0 && given->iov_len <= sizeof remembered[known].state) {
        remembered[known].pid = pid;
        remembered[known].size = given->iov_len;
        memcpy(remembered[known].state, given->iov_base, given->iov_len);
    }
    return result;
}
