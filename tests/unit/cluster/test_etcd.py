"""etcd beside Pond: what is said where it is missing, and its HTTP answers."""

import asyncio

import click.testing
import pytest

from cluster.bench import etcd
from cluster.bench.cli import bench
from pond.errors import UsageError


def read(data: bytes) -> tuple[int, bytes]:
    async def fed() -> tuple[int, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await etcd.answer(reader)

    return asyncio.run(fed())


def test_without_etcd_the_command_says_what_to_install_before_it_measures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = click.testing.CliRunner().invoke(bench, ["throughput", "--etcd"])
    assert isinstance(done.exception, UsageError)
    assert "apt-get install etcd-server" in str(done.exception)


def test_an_answer_ends_where_it_says() -> None:
    assert read(b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-LENGTH: 3\r\n\r\nabcdef") == (200, b"abc")
    assert read(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n") == (503, b"")


def test_an_answer_of_unknown_length_is_refused() -> None:
    with pytest.raises(ValueError, match="500"):
        read(b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    with pytest.raises(EOFError):
        read(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc")
