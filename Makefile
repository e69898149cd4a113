# Two commands for newcomers; each prepares the machine by itself and can be run again.
#   make demo   as root: a process on a throw-away copy of this machine
#   make test   everything that can be tested here

.PHONY: demo test

demo:
	@scripts/setup demo
	@scripts/demo

test:
	@scripts/setup test
	@.venv/bin/tox run
