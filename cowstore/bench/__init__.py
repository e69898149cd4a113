"""Benchmarks: every driver of this machine, the floors below them and the tools beside them, measured in one run.

``python -m benchmarks`` in a checkout and ``cowstore bench`` of an installed cowstore are the same program.
"""
