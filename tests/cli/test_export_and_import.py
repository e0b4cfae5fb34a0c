"""`revoker export` and `revoker import` as processes, on a real Valkey."""

import asyncio
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import time
import uuid

import pytest

from revoker.auth import digest
from revoker.errors import StoreRefused, StoreUnavailable
from revoker.store.transfer.exporting import Exporting
from tests.rig import forge
from tests.rig.processes import Process, until
from tests.store.conftest import store_on


@pytest.fixture
def valkey(own_valkey):
    """One of their own: how many lines an export has depends on all that a server keeps."""
    return own_valkey


@pytest.fixture
def prefix():
    return f"t{uuid.uuid4().hex[:12]}"


CONFIG = """
[redis]
url = "{url}"
key_prefix = "{prefix}"
timeout = 5 # that of export and import; the default of a quarter of a second is too short on a busy machine
[[issuers]]
name = "main"
issuer = "{issuer}"
audiences = ["{audience}"]
claims.revocable = ["grant_id", "email"]
jwks_file = "main.jwks"
[[callers]]
name = "gateway"
secret_sha256 = ["{secret}"]
scopes = ["introspect"]
"""


class Revoker:
    """Runs commands on the shared server, under a prefix of its own that is declared new."""

    def __init__(self, folder, valkey, prefix):
        self.folder, self.valkey, self.prefix = folder, valkey, prefix
        self.configure()
        assert self.run("store", "init")[0] == 0

    def configure(self):
        folder, valkey, prefix = self.folder, self.valkey, self.prefix
        (folder / "main.jwks").write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
        (folder / "revoker.toml").write_text(
            CONFIG.format(
                url=valkey.url,
                prefix=prefix,
                issuer=forge.ISSUER,
                audience=forge.AUDIENCE,
                secret=digest("gateway-secret"),
            )
        )

    def begin(self, *arguments):
        return Process(self.folder, "-m", "revoker", *arguments, REVOKER_CONFIG="revoker.toml")

    def run(self, *arguments):
        """Returns status, output and errors."""
        with self.begin(*arguments) as process:
            status = process.status()
        return status, process.out.read_text(), process.err.read_text()

    def listed(self):
        with self.valkey.client() as client:
            return {key.rpartition(":")[2] for key in client.scan_iter(f"{self.prefix}:jti:*", 1000)}

    def counted(self):
        with self.valkey.client() as client:
            return int(client.get(f"{self.prefix}:seq") or 0)


@pytest.fixture
def revoker(tmp_path, valkey, prefix):
    return Revoker(tmp_path, valkey, prefix)


def jtis(count):
    exp = int(time.time()) + 3600
    return [{"kind": "jti", "iss": forge.ISSUER, "jti": uuid.uuid4().hex, "exp": exp} for _ in range(count)]


def names(lines):
    return {line["jti"] for line in lines}


def write(file, lines):
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


def test_what_was_exported_is_imported_into_another_store(tmp_path, revoker, valkey):
    lines = [
        *jtis(300),
        {"kind": "user", "iss": forge.ISSUER, "sub": "alice", "reason": "stolen laptop"},
        {"kind": "key", "iss": "main", "kid": "k1"},
    ]
    status, out, _ = revoker.run("import", write(tmp_path / "in.ndjson", lines))
    assert (status, out.split()) == (0, ["jti", "300", "user", "1", "key", "1"])
    assert revoker.run("export", "--output", "out.ndjson")[0] == 0
    [first, *middle, last] = map(json.loads, (tmp_path / "out.ndjson").read_text().splitlines())
    assert (first["kind"], last) == ("export", {"kind": "end", "lines": 303})
    assert {line["jti"] for line in middle if line["kind"] == "jti"} == names(lines[:300])
    assert (tmp_path / "out.ndjson").stat().st_mode & 0o077 == 0

    (tmp_path / "b").mkdir()
    other = Revoker(tmp_path / "b", valkey, f"{revoker.prefix}-b")
    assert other.run("import", tmp_path / "out.ndjson")[0] == 0
    assert other.listed() == revoker.listed() == names(lines[:300])


async def test_a_running_service_sees_what_is_imported_at_once(tmp_path, revoker, start, valkey):
    running = await start(valkey, prefix=revoker.prefix, new=False)
    claims = [
        {"iss": forge.ISSUER, "jti": uuid.uuid4().hex, "sub": sub, "iat": int(time.time()) - 60,
         "exp": int(time.time()) + 600}
        for sub in ("alice", "bob", "carol", "dave")
    ]  # fmt: skip
    assert [await running.active(token) for token in claims] == [True] * 4
    lines = [
        {"kind": "jti", "iss": forge.ISSUER, "jti": claims[0]["jti"]},
        {"kind": "user", "iss": forge.ISSUER, "sub": "bob", "before": time.time() - 5},
        {"kind": "block", "iss": "main", "sub": "carol"},
    ]
    file = write(tmp_path / "in.ndjson", lines)
    status, _, err = await asyncio.to_thread(revoker.run, "import", file)
    assert status == 0, err
    assert [await running.active(token) for token in claims] == [False, False, False, True]
    async with running.http.get(running.url + "/readyz") as response:
        assert (await response.json())["status"] == "ok"


def test_a_bad_line_ends_the_import_and_those_before_it_are_stored(tmp_path, revoker):
    lines = [*jtis(700), "", '{"kind":"jti","iss":"https://idp.example.com"}', *jtis(5)]
    status, _, err = revoker.run("import", write(tmp_path / "in.ndjson", lines))

    assert status == 1
    assert "line 702: a jti is named by `jti`\n" in err
    assert "lines up to 701 are stored; the rest: --from-line 702\n" in err
    assert revoker.listed() == names(lines[:700])


def test_keep_going_tells_of_every_bad_line_and_stores_all_others(tmp_path, revoker):
    lines = [
        *jtis(2),
        "nonsense",
        *jtis(2),
        {"kind": "jti", "iss": "https://nobody", "jti": "x"},
        "{" * 200_000,
        *jtis(1),
    ]
    status, _, err = revoker.run("import", "--keep-going", write(tmp_path / "in.ndjson", lines))

    assert status == 1
    assert re.findall(r"^line (\d+): (\w+ \w+)", err, re.MULTILINE) == [
        ("3", "JSON is"),
        ("6", "no issuer"),
        ("7", "too long"),
    ]
    assert len(revoker.listed()) == 5


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda lines: lines[:-1], "the export is cut off: its last line is missing"),
        (lambda lines: [*lines[:-1], lines[-1][:10]], "line 5: "),
        (lambda lines: lines[:2] + lines[3:], "line 4: the export is incomplete"),
        (lambda lines: lines[1:], "line 4: the export is incomplete"),
    ],
    ids=["no end", "half a line", "a line missing", "no beginning"],
)
def test_an_export_that_is_not_whole_is_noticed(tmp_path, revoker, spoil, problem):
    revoker.run("import", write(tmp_path / "in.ndjson", jtis(3)))
    revoker.run("export", "--output", "out.ndjson")
    lines = (tmp_path / "out.ndjson").read_text().splitlines()
    status, _, err = revoker.run("import", write(tmp_path / "in.ndjson", spoil(lines)))

    assert status == 1
    assert problem in err


def test_exports_one_after_the_other_can_be_imported_as_one(tmp_path, revoker):
    revoker.run("import", write(tmp_path / "in.ndjson", jtis(3)))
    revoker.run("export", "--output", "out.ndjson")
    text = (tmp_path / "out.ndjson").read_text()
    (tmp_path / "twice.ndjson").write_text(text + text)
    status, out, _ = revoker.run("import", "twice.ndjson")

    assert (status, out.split()) == (0, ["jti", "6"])


def test_a_dry_run_says_what_would_be_hit_and_writes_nothing(tmp_path, revoker):
    old = {"kind": "jti", "iss": forge.ISSUER, "jti": "old", "exp": 1000}
    stored = jtis(2)
    revoker.run("import", write(tmp_path / "stored.ndjson", stored))
    before = revoker.listed(), revoker.counted()
    users = [{"kind": "user", "iss": "main", "sub": f"u{n}"} for n in range(4)]
    file = write(tmp_path / "in.ndjson", [*stored, *jtis(3), old, *users])
    status, out, _ = revoker.run("import", "--dry-run", file)

    assert (status, [line.split(maxsplit=2) for line in out.splitlines()]) == (
        0,
        [
            ["jti", "6:", "3 new, 2 stored already, 1 expired"],
            ["user", "4:", "4 new, 0 stored already, 0 expired"],
        ],
    )
    assert (revoker.listed(), revoker.counted()) == before


def test_an_import_that_was_interrupted_goes_on_where_it_stopped(tmp_path, revoker):
    """Only lines reported as stored are skipped, whatever was in progress."""
    lines = jtis(2000)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with revoker.begin("import", fifo) as process, fifo.open("w") as pipe:
        pipe.write("".join(f"{json.dumps(line)}\n" for line in lines[:1500]))
        pipe.flush()
        until(lambda: len(revoker.listed()) == 1500)
        process.send_signal()
        assert process.status() == 130
    stored, follows = re.search(
        r"lines up to (\d+) are stored; the rest: --from-line (\d+)", process.err.read_text()
    ).groups()
    assert int(stored) == 1500
    assert revoker.counted() == 1500
    file = write(tmp_path / "in.ndjson", lines)
    status, out, _ = revoker.run("import", file, "--from-line", follows)

    assert (status, out.split()) == (0, ["jti", "500"])
    assert revoker.listed() == names(lines)


def test_no_line_is_reported_as_stored_after_one_that_is_not(tmp_path, revoker):
    """One batch fails while the next, which is under way beside it, is stored."""
    sessions = [{"kind": "session", "iss": "main", "sid": f"s{number}"} for number in range(6000)]
    with revoker.valkey.client() as client:
        client.rpush(f"{revoker.prefix}:session-cutoff:main:s4", "not what a cutoff looks like")
    status, _, err = revoker.run("import", write(tmp_path / "in.ndjson", sessions))

    assert status == 1
    assert "lines up to 0 are stored; the rest: --from-line 1" in err
    with revoker.valkey.client() as client:
        assert client.exists(f"{revoker.prefix}:session-cutoff:main:s5")


def test_an_import_waits_for_a_store_that_comes_back_and_stores_every_line(tmp_path, own_valkey):
    revoker = Revoker(tmp_path, own_valkey, "rv")
    lines = jtis(3000)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with revoker.begin("import", fifo) as process, fifo.open("w") as pipe:
        pipe.write("".join(f"{json.dumps(line)}\n" for line in lines[:1000]))
        pipe.flush()
        until(lambda: len(revoker.listed()) == 1000)
        own_valkey.kill()
        pipe.write("".join(f"{json.dumps(line)}\n" for line in lines[1000:]))
        pipe.flush()
        own_valkey.start()
        pipe.close()
        assert process.status() == 0, process.err.read_text()
    assert revoker.listed() == names(lines)


async def test_an_export_ends_if_a_server_is_restarted_meanwhile(valkey, prefix):
    with valkey.client() as client:
        client.mset({f"others:{number}": "" for number in range(3000)})
    store = store_on(valkey, prefix, timeout=10)
    await store.init()
    steps = Exporting(store).steps()
    await anext(steps)
    await anext(steps)
    valkey.kill()
    valkey.start()
    with contextlib.suppress(StoreUnavailable):
        await store.primaries()  # fails with the old connection, so that the next one is new
    with pytest.raises(StoreRefused, match="export again"):
        await anext(steps)
    await store.close()


def test_an_export_overwrites_nothing(tmp_path, revoker):
    (tmp_path / "mine").write_text("mine\n")
    status, _, err = revoker.run("export", "--output", "mine")
    assert (status, err) == (1, "mine: File exists\n")
    assert (tmp_path / "mine").read_text() == "mine\n"


def test_positions_in_the_exports_of_older_versions_are_skipped(tmp_path, revoker):
    lines = jtis(2)
    position = {"kind": "place", "servers": ["0" * 40], "at": 0, "cursor": "12", "lines": 2}
    begin, end = {"kind": "export", "format": 1, "at": time.time()}, {"kind": "end", "lines": 4}
    file = write(tmp_path / "in.ndjson", [begin, lines[0], position, lines[1], end])
    status, out, err = revoker.run("import", file)

    assert (status, out.splitlines()) == (
        0,
        [
            "jti                2",
            "place              1: skipped; older versions wrote them to resume an export",
        ],
    ), err
    assert revoker.listed() == names(lines)


def test_a_store_that_was_not_declared_new_is_not_written_to(tmp_path, own_valkey):
    revoker = Revoker(tmp_path, own_valkey, "rv")
    with own_valkey.client() as client:
        client.flushall()
    status, _, err = revoker.run("import", write(tmp_path / "in", jtis(1)))

    assert status == 1
    assert "revoker store init" in err
    assert revoker.listed() == set()


def test_on_a_terminal_progress_is_a_bar_on_one_line(tmp_path, revoker):
    file = write(tmp_path / "in.ndjson", jtis(10_000))
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "revoker", "import", file]
    environ = revoker.begin().environ
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL, stderr=child
    ) as process:
        os.close(child)
        output = b"".join(iter(lambda: read_terminal(parent), b"")).decode()
    os.close(parent)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", output)
    assert re.search(r"\r\x1b\[2K━+.* stored [\d,]+ lines, [\d,]+ a second, \d+%", text)


def read_terminal(descriptor):
    """What was written to a terminal, empty once its last writer has closed it."""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""
