"""The archive: each version as m-of-n fragments over machines that nobody has to trust.

It will hold the erasure code, the fragments that prove themselves, placement, audit and repair, all as pure cores. It
comes with a milestone of its own; there is nothing here yet.
"""
