/*
 * Lets user-mode Linux 6.1 run on a CPU whose floating point state is larger than it knows.
 *
 * It keeps 2696 bytes of state per process and hands exactly those to PTRACE_SETREGSET; a kernel on a CPU with AMX wants 11008
 * and refuses less, which ends in "Attempted to kill init".  So a short write becomes: read the whole state, replace its
 * beginning, say that the tile registers are not in use, write the whole.  On any other CPU nothing is changed.
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

static long (*next_ptrace)(int, pid_t, void *, void *);
static char state[32768] __attribute__((aligned(64)));

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
    if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE) {
        struct iovec *given = data;
        struct iovec whole = {state, sizeof state};
        if (next_ptrace(PTRACE_GETREGSET, pid, address, &whole) == 0 && whole.iov_len > given->iov_len) {
            memcpy(state, given->iov_base, given->iov_len);
            *(uint64_t *)(state + XSTATE_HEADER) &= ~TILE_FEATURES;
            return next_ptrace(PTRACE_SETREGSET, pid, address, &whole);
        }
    }
    return next_ptrace(request, pid, address, data);
}
