"""A server and its roles: today a member of the ring; later also archiver, overlay node and secondary replica."""
