"""Structured logs: one line of JSON an event, and no more lines than anybody needs."""

import json
from pathlib import Path
from typing import Any

from pond.logs import MAX_PER_SECOND, Log


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_json_with_time_level_server_event_and_fields(tmp_path: Path) -> None:
    log = Log("ring-0", tmp_path / "log")
    log.info("started", executed=5)
    log.warning("refused", reason="line\nbreak", key=b"\x01\xff")
    log.close()
    first, second = lines(tmp_path / "log")
    assert (first["level"], first["server"], first["event"], first["executed"]) == ("info", "ring-0", "started", 5)
    assert second["reason"] == "line\nbreak"
    assert second["key"] == "01ff"


def test_an_event_that_repeats_is_counted_instead_of_written(tmp_path: Path) -> None:
    clock = Clock()
    log = Log("ring-0", tmp_path / "log", clock)
    for _ in range(1000):
        log.warning("refused")
    log.info("something else")
    clock.now = 1.5
    log.warning("refused")
    log.close()
    written = lines(tmp_path / "log")
    assert len(written) == MAX_PER_SECOND + 2
    assert written[-1]["left_out"] == 1000 - MAX_PER_SECOND


def test_an_error_brings_its_traceback(tmp_path: Path) -> None:
    log = Log("ring-0", tmp_path / "log")
    try:
        raise ValueError("what went wrong")
    except ValueError as error:
        log.error("failed", error)
    log.close()
    [line] = lines(tmp_path / "log")
    assert "what went wrong" in line["traceback"]
