"""One order of requests that f liars cannot bend: PBFT in its normal case, state tree, certificates by threshold keys.

Castro and Liskov, "Practical Byzantine Fault Tolerance and Proactive Recovery", TOCS 2002, sections 4.2 to 4.4. What
differs and why stands in docs/divergence.md. `replica` is the way in; nothing here touches a socket, clock or disk.
"""
