"""The async twin of `pond.connect`, and what one imports with it."""

from pond.client.aio import connect
from pond.client.changes import Update
from pond.client.objects import ExportReport, LogEntry, Object, ObjectFile, ObjectStat, Store

__all__ = ["ExportReport", "LogEntry", "Object", "ObjectFile", "ObjectStat", "Store", "Update", "connect"]
