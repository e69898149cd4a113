"""One typed function per kernel call.

What belongs here: the call, under the name its man page gives it, with the argument's flags as an `IntFlag`,
descriptors that own themselves, and `OSError` when the kernel says no (errno, file names, a note that names the call).
What does not: policy, fall-backs from one call to another, knowledge of any driver. Import the module that is needed;
this package itself imports nothing.
"""
