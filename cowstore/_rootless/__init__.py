"""What an ordinary user's store needs: a user and mount namespace of its own, and a helper process that works in it.

``namespace`` puts a process of ours into one. ``calls`` starts the helper and has it do a verb; ``helper`` is its
program. ``confined`` stands before a driver, and has the helper do what only there can be done.
"""
