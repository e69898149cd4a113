"""The kernel tier: runs commands, usually pytest, of this checkout on kernels that have device-mapper.

``python -m tests.vm uml -- COMMAND`` boots user-mode Linux, ``python -m tests.vm qemu -- COMMAND`` Debian's cloud
kernel (or ``COWSTORE_VM_KERNEL``) with two processors.  Either sees the host's files read-only at the same paths, has
fresh memory file systems on /tmp, /var/tmp, /run and /dev/shm, and brings back output and exit status.
"""
