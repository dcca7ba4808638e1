"""Pond: a Byzantine fault-tolerant, versioned object store.

    with pond.connect() as store:                       # async twin: pond.aio.connect
        notes = store.create("notes")                   # or store.open("notes")
        v1 = notes.write(b"hello")                      # Version(number, vguid, size, time, certificate)
        v2 = notes.update().when(pond.version_is(1)).append(b" world").commit()
        notes.read(version=1)

What is named here is loaded when it is first used, so that a server or a command loads no more than it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pond import aio
    from pond.client.content import ChangedRange
    from pond.client.objects import ExportReport, LogEntry, ObjectStat
    from pond.client.predicates import (
        Predicate,
        absent,
        after,
        all_of,
        any_of,
        before,
        block_is,
        exists,
        metadata_is,
        not_,
        size_is,
        version_is,
    )
    from pond.client.sync import Object, ObjectFile, Store, Update, connect
    from pond.client.target import Version
    from pond.errors import (
        Aborted,
        ClusterDamaged,
        NotFound,
        PermissionRefused,
        PondError,
        TimedOut,
        Unavailable,
        UsageError,
        VerificationFailed,
    )

__all__ = [
    "Aborted",
    "ChangedRange",
    "ClusterDamaged",
    "ExportReport",
    "LogEntry",
    "NotFound",
    "Object",
    "ObjectFile",
    "ObjectStat",
    "PermissionRefused",
    "PondError",
    "Predicate",
    "Store",
    "TimedOut",
    "Unavailable",
    "Update",
    "UsageError",
    "VerificationFailed",
    "Version",
    "absent",
    "after",
    "aio",
    "all_of",
    "any_of",
    "before",
    "block_is",
    "connect",
    "exists",
    "metadata_is",
    "not_",
    "size_is",
    "version_is",
]

_HOMES = {
    "pond.client.content": ("ChangedRange",),
    "pond.client.objects": ("ExportReport", "LogEntry", "ObjectStat"),
    "pond.client.predicates": (
        "Predicate absent after all_of any_of before block_is exists metadata_is not_ size_is version_is".split()
    ),
    "pond.client.sync": ("Object", "ObjectFile", "Store", "Update", "connect"),
    "pond.client.target": ("Version",),
    "pond.errors": (
        "Aborted ClusterDamaged NotFound PermissionRefused PondError TimedOut Unavailable UsageError"
        " VerificationFailed".split()
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "aio":
        return import_module("pond.aio")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pond' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
