"""The queue between who logs and who reads, on real pipes."""

import asyncio
import os
import threading

import pytest

from revoker.log_writer import Dropped, LineWriter
from tests.rig.service import HANGS_S

LINE = b"x" * 99 + b"\n"


def reported(dropped):
    return f"dropped {dropped.audit} and {dropped.other}\n".encode()


class Pipe:
    """Both ends of a pipe that starts full, so that no line gets through before it is read."""

    def __init__(self):
        self.reading, self.writing = os.pipe()
        self.writers = []
        os.set_blocking(self.writing, False)
        self.filled = 0
        try:
            while True:
                self.filled += os.write(self.writing, b"." * 4096)
        except BlockingIOError:
            os.set_blocking(self.writing, True)

    def read_part(self):
        self.filled = max(0, self.filled - len(os.read(self.reading, 4096)))

    def read_filling(self):
        while self.filled:
            self.filled -= len(os.read(self.reading, min(self.filled, 4096)))

    def read(self, size):
        data = b""
        while len(data) < size:
            data += os.read(self.reading, size - len(data))
        return data

    def close_reading(self):
        os.close(self.reading)
        self.reading = None

    def close(self):
        """Nobody reads any more, so every write ends; only then may another file get this descriptor."""
        if self.reading is not None:
            self.close_reading()
        assert all(writer.flush(60) for writer in self.writers)
        os.close(self.writing)


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.close()


def writer_to(pipe, **bounds):
    writer = LineWriter(pipe.writing, reported, **bounds)
    pipe.writers.append(writer)
    return writer


def test_lines_wait_while_nobody_reads_and_then_come_in_order(pipe):
    writer = writer_to(pipe)
    lines = [f"line {number}\n".encode() for number in range(2000)]
    for line in lines:
        writer.put(line)
    assert not writer.flush(0)

    pipe.read_filling()

    assert pipe.read(sum(map(len, lines))) == b"".join(lines)
    assert writer.flush(HANGS_S)
    assert writer.dropped == (0, 0)


def test_what_finds_no_room_is_dropped_and_reported_once_writing_works_again(pipe):
    writer = writer_to(pipe, limit=10 * len(LINE), reserve=0)
    for _ in range(13):
        writer.put(LINE)
    assert writer.dropped == Dropped(audit=0, other=3)

    pipe.read_filling()

    report = b"dropped 0 and 3\n"
    read = pipe.read(10 * len(LINE) + len(report))
    assert read.count(LINE) == 10
    assert read.count(report) == 1
    writer.put(LINE)
    assert pipe.read(len(LINE)) == LINE


def test_audit_lines_have_a_reserve_that_other_lines_do_not_use(pipe):
    writer = writer_to(pipe, limit=10 * len(LINE), reserve=5 * len(LINE))
    for _ in range(12):
        writer.put(LINE)
    for _ in range(7):
        writer.put(LINE, audit=True)

    assert writer.dropped == Dropped(audit=2, other=2)
    pipe.read_filling()
    pipe.read(15 * len(LINE))


async def test_a_request_waits_for_room_only_until_writing_has_stood_still_for_so_long(pipe):
    writer = writer_to(pipe, limit=len(LINE), reserve=len(LINE))
    assert writer.has_audit_room() is False  # the spare alone is larger than these bounds
    writer.put(LINE)

    await writer.wait_for_audit_room(0)
    waiting = asyncio.ensure_future(writer.wait_for_audit_room(3600))
    await asyncio.sleep(0)

    assert not waiting.done()
    waiting.cancel()
    pipe.read_filling()
    assert pipe.read(len(LINE)) == LINE


async def test_a_request_goes_on_though_a_slow_reader_never_makes_enough_room(pipe):
    writer = writer_to(pipe, limit=0, reserve=65536 + len(LINE))

    def fill():
        dropped = writer.dropped
        while writer.dropped == dropped:
            writer.put(LINE, audit=True)

    fill()
    waiting = asyncio.ensure_future(writer.wait_for_audit_room(2))

    async def log_as_much_as_is_read():
        while not waiting.done():
            await asyncio.to_thread(pipe.read_part)
            fill()

    await asyncio.wait_for(log_as_much_as_is_read(), HANGS_S)
    assert not writer.has_audit_room()


async def test_a_request_that_waits_goes_on_once_there_is_room(pipe):
    writer = writer_to(pipe, limit=0, reserve=65536 + 10 * len(LINE))
    for _ in range(20):
        writer.put(LINE, audit=True)
    waiting = asyncio.ensure_future(writer.wait_for_audit_room(3600))
    await asyncio.sleep(0)
    assert not waiting.done()

    await asyncio.to_thread(pipe.read_filling)

    await waiting
    assert await asyncio.to_thread(pipe.read, 20 * len(LINE)) == 20 * LINE


def test_a_reader_that_has_gone_costs_lines_and_neither_the_process_nor_a_turn_without_end(pipe):
    writer = writer_to(pipe)
    pipe.close_reading()
    for count in range(1, 4):
        writer.put(LINE, audit=True)
        assert writer.flush(HANGS_S)
        assert writer.dropped == Dropped(audit=count, other=0)


def test_a_descriptor_that_is_closed_costs_lines_alone():
    writer = LineWriter(1_000_000, reported)
    writer.put(LINE)

    assert writer.flush(HANGS_S)
    assert writer.dropped == Dropped(audit=0, other=1)


def test_a_pipe_that_another_program_made_non_blocking_is_waited_for(pipe):
    os.set_blocking(pipe.writing, False)
    writer = writer_to(pipe)
    for _ in range(500):
        writer.put(LINE)

    pipe.read_filling()

    assert pipe.read(500 * len(LINE)) == 500 * LINE


def test_a_forked_process_writes_its_own_lines_and_none_of_its_parent(pipe):
    writer = writer_to(pipe)
    writer.put(b"parent\n")
    child = os.fork()
    if child == 0:
        writer.put(b"child\n")
        os._exit(0 if writer.flush(60) and writer.dropped == (0, 0) else 1)
    pipe.read_filling()

    assert sorted(pipe.read(len(b"parent\nchild\n")).split()) == [b"child", b"parent"]
    assert os.waitpid(child, 0)[1] == 0
    assert writer.flush(HANGS_S)


def test_threads_lose_nothing_among_them(pipe):
    writer = writer_to(pipe)

    def write(name):
        for number in range(500):
            writer.put(f"{name} {number}\n".encode())

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.read_filling()
    size = 4 * sum(len(f"a {number}\n") for number in range(500))
    lines = pipe.read(size).decode().splitlines()

    for name in "abcd":
        assert [line for line in lines if line[0] == name] == [f"{name} {number}" for number in range(500)]
