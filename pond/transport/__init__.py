"""All of ZeroMQ: encrypted links between servers, and between clients and servers. The one package that imports zmq.

Every link is CurveZMQ (RFC 26) under the server's key, which is its Ed25519 key in Curve25519 form, so that a
membership lists one key per server. Each port has a context of its own, hence its own I/O thread, and its own judge of
keys (ZAP, RFC 27). The sender of a message is the key that its link was opened with, as ZAP noted it: no field of the
message, and no routing id, since a peer may choose that itself.

Sockets are drained in bursts from their file descriptor, with no await per message; each burst goes to one callback.
The descriptor is edge-triggered, it says that something changed: so a socket is read until it is empty, and looked at
again after a send, which may have swallowed the edge.

Nothing here blocks, and nothing is certain to arrive. A queue that is full drops what is new and counts it in
`counters`; protocols send again. Hostile bytes cost their sender the link, and us a count.
"""

from pond.transport.client import ServerLinks
from pond.transport.overlay import OverlayPort
from pond.transport.ports import ClientPort, PeerPort
from pond.transport.sockets import Remote, curve_public

__all__ = ["ClientPort", "OverlayPort", "PeerPort", "Remote", "ServerLinks", "curve_public"]
