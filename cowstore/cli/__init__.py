"""The commands ``cowstore-run`` and ``cowstore``. Nothing is imported here: start-up time belongs to the command."""
