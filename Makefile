# Two commands for newcomers; each prepares the machine by itself and can be run again.
#   make demo   as root: a process on a throw-away copy of this machine
#   make test   everything that can be tested here

.PHONY: demo test bench-peers

demo:
	@scripts/setup demo
	@scripts/demo

test:
	@scripts/setup test
	@.venv/bin/tox run

# Debian's packages of the tools that `python -m benchmarks peers` measures beside cowstore, and what containerd's own
# messages are sent with.
bench-peers:
	apt-get install --yes --no-install-recommends containers-storage containerd podman buildah umoci bubblewrap crun \
	    runc tar libarchive-tools btrfs-progs dmsetup
	[ ! -x .venv/bin/python ] || .venv/bin/python -m pip install --quiet grpcio
