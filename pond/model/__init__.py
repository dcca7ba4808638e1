"""What Pond stores and says, as pure data and functions: objects, versions, updates, and the proofs of them.

A core: random bytes, time, and readers of what is stored come in as arguments; nothing here reads a disk or a clock.
"""
