"""Overlays of a thousand nodes and more that come and go: what Bamboo measured (USENIX 2004, section 4)."""
