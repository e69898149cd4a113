"""Which signals reach a program, and how: whoever sends them to the launcher means the program."""

from __future__ import annotations

import signal

TO_GROUP = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH})
"""What a terminal sends to a whole process group, and we too."""
TO_PROGRAM = frozenset({signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM})
"""What is sent to one process."""
TO_ALL = frozenset({signal.SIGTSTP, signal.SIGCONT})
"""Stops and continues everything inside."""
FORWARDED = TO_GROUP | TO_PROGRAM | TO_ALL
