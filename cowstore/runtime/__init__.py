"""A process on a root: a frozen :class:`~cowstore.runtime.spec.Spec`, a pure plan of it, and a launcher to execute it.

Nothing is imported here: a launcher pays only for what its plan needs.
"""
