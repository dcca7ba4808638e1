"""Stub."""
commands = ()
