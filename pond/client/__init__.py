"""What a program uses to keep objects in a ring that it need not trust: it orders updates, reads, and checks it all.

`objects` is the core; `aio` and `sync` are its two faces. Network, clock and random bytes come in as parameters, so
that a simulation runs the same code on virtual time.
"""
