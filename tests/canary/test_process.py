"""The canary as a process: its metrics, its health, its end; and `--once`."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.request

import pytest
from typer.testing import CliRunner

from revoker.canary.process import Canary
from revoker.canary.rounds import Failure, Outcome
from revoker.cli.commands import command
from tests.canary.conftest import KEY, callers, issuers
from tests.rig.processes import Process
from tests.rig.service import HANGS_S, serve


class Pauses:
    """Ends the pause between two rounds when the test says so."""

    def __init__(self):
        self.paused = asyncio.Event()
        self.ended = asyncio.Event()
        self.asked_for = []

    async def sleep(self, seconds):
        if seconds < 1:  # between two questions
            await asyncio.sleep(0)
            return
        self.asked_for.append(seconds)
        self.paused.set()
        await self.ended.wait()
        self.ended.clear()

    async def until_paused(self):
        await asyncio.wait_for(self.paused.wait(), HANGS_S)
        self.paused.clear()


@pytest.fixture
async def begin():
    """Starts a canary; it ends with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(settings):
            pauses = Pauses()
            running = await serve(Canary(settings, sleep=pauses.sleep))
            stack.push_async_callback(running.close)
            return running, pauses

        yield start


async def metrics_of(running):
    text = (await running.ask("GET", "/metrics")).body.decode()
    return dict(re.findall(r"^([^#].*) (\S+)$", text, re.MULTILINE))


async def test_a_round_is_counted_by_target(service, begin, configure):
    targets = [
        {"name": "service", "url": service.url},
        {"name": "gone", "url": "http://127.0.0.1:1"},
    ]
    before = time.time()
    canary, pauses = await begin(configure(service.url, *targets))
    await pauses.until_paused()

    counts = await metrics_of(canary)
    assert counts['revoker_canary_seconds_count{target="service"}'] == "1.0"
    assert counts['revoker_canary_seconds_bucket{le="60.0",target="service"}'] == "1.0"
    assert float(counts['revoker_canary_last_success_timestamp_seconds{target="service"}']) >= before
    assert counts['revoker_canary_failures_total{reason="late",target="service"}'] == "0.0"
    assert counts['revoker_canary_seconds_count{target="gone"}'] == "0.0"
    assert counts['revoker_canary_last_success_timestamp_seconds{target="gone"}'] == "0.0"
    assert counts['revoker_canary_failures_total{reason="unreachable",target="gone"}'] == "1.0"
    assert {name.partition("{")[0].removesuffix("_created") for name in counts} == {
        "revoker_canary_seconds",
        "revoker_canary_seconds_bucket",
        "revoker_canary_seconds_count",
        "revoker_canary_seconds_sum",
        "revoker_canary_last_success_timestamp_seconds",
        "revoker_canary_failures",
        "revoker_canary_failures_total",
    }, "by revoker_build_info it would count as an instance of the service"

    pauses.ended.set()
    await pauses.until_paused()
    counts = await metrics_of(canary)
    assert counts['revoker_canary_seconds_count{target="service"}'] == "2.0"
    assert counts['revoker_canary_failures_total{reason="unreachable",target="gone"}'] == "2.0"
    assert 0 < pauses.asked_for[0] <= 120


async def test_health_reports_the_targets_that_failed(service, begin, configure, events):
    targets = [{"name": "service", "url": service.url}, {"name": "gone", "url": "http://127.0.0.1:1"}]
    canary, pauses = await begin(configure(service.url, *targets))
    await pauses.until_paused()
    assert (await canary.ask("GET", "/livez")).status == 200
    ready = await canary.ask("GET", "/readyz")
    assert (ready.status, ready.json["status"]) == (200, "degraded")
    assert [problem["problem"] for problem in ready.json["problems"]] == ["target_gone"]
    assert (await canary.ask("GET", "/introspect")).status == 404
    (failed,) = [line for line in events if line["event"] == "canary_failed"]
    assert (failed["target"], failed["reason"]) == ("gone", "unreachable")
    canary.service.drain()
    assert (await canary.ask("GET", "/readyz")).status == 503


async def test_an_address_without_a_figure_counts_beside_the_figure_of_the_others(
    service, begin, configure, events
):
    canary, pauses = await begin(configure(service.url, {"name": "edges", "url": "http://127.0.0.1:1"}))
    await pauses.until_paused()
    failures = (Failure("late", "10.0.0.2: late"), Failure("unreachable", "10.0.0.1: gone"))
    canary.service._record([Outcome("edges", 0.25, failures)])
    counts = await metrics_of(canary)
    assert counts['revoker_canary_seconds_sum{target="edges"}'] == "0.25"
    assert counts['revoker_canary_failures_total{reason="late",target="edges"}'] == "1.0"
    assert counts['revoker_canary_failures_total{reason="unreachable",target="edges"}'] == "2.0"
    assert counts['revoker_canary_last_success_timestamp_seconds{target="edges"}'] == "0.0"
    failed = [line["problem"] for line in events if line["event"] == "canary_failed"]
    assert failed[1:] == ["10.0.0.2: late", "10.0.0.1: gone"]
    ready = await canary.ask("GET", "/readyz")
    assert ready.json["status"] == "degraded"


async def test_a_round_that_breaks_is_followed_by_another(service, begin, configure, tmp_path, events):
    canary, pauses = await begin(configure(service.url, {"name": "service", "url": service.url}))
    await pauses.until_paused()
    revoke, canary.service._record = canary.service._record, None
    pauses.ended.set()
    await pauses.until_paused()
    assert [line["log_level"] for line in events if line["event"] == "canary_round_failed"] == ["error"]
    canary.service._record = revoke
    pauses.ended.set()
    await pauses.until_paused()
    counts = await metrics_of(canary)
    assert counts['revoker_canary_seconds_count{target="service"}'] == "2.0"


# The command

CONFIG = """
[server]
port = 0

[upstream]
url = "{url}"
secret_file = "canary.secret"

[canary]
key_file = "canary.key"
every_seconds = 120.0
timeout_seconds = 60.0

[[targets]]
name = "service"
url = "{url}"
"""


@pytest.fixture
def configured(tmp_path):
    """Writes a configuration."""
    (tmp_path / "canary.secret").write_text("canary-secret\n")
    (tmp_path / "canary.key").write_text(json.dumps(KEY.private_jwk()))

    def write(url, more=""):
        (tmp_path / "canary.toml").write_text(CONFIG.format(url=url) + more)
        return tmp_path / "canary.toml"

    return write


async def run(folder, *arguments):
    """Exit status and output of `revoker`, while services of this process answer."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REVOKER")}
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "revoker", *map(str, arguments)),
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(started.communicate(), HANGS_S)
    return started.returncode, out.decode(), err.decode()


async def test_once_prints_a_figure_for_every_target_and_fails_where_one_has_none(
    service, configured, tmp_path
):
    config = configured(service.url)
    status, out, err = await run(tmp_path, "canary", "--once", "--config", config)
    assert status == 0, out + err
    assert re.fullmatch(r"service  refused after \d+\.\d{3} s\n", out)

    config = configured(service.url, '[[targets]]\nname = "gone"\nurl = "http://127.0.0.1:1"\n')
    status, out, err = await run(tmp_path, "canary", "--once", "--config", config)
    assert status == 1, out + err
    assert re.fullmatch(r"service  refused after \d+\.\d{3} s\ngone     unreachable: .+\n", out)


async def test_a_wrong_configuration_is_refused(configured, tmp_path):
    config = configured("http://revoker.example.com")
    status, out, err = await run(tmp_path, "canary", "--once", "--config", config)
    assert (status, out) == (2, "")
    assert "upstream.url: must be https" in err
    assert "targets[0].url: must be https" in err


async def test_the_command_runs_rounds_until_sigterm(service, configured, tmp_path):
    config = configured(service.url)
    with Process(tmp_path, "-m", "revoker", "canary", "--config", config) as process:
        done = await asyncio.to_thread(process.logged, "canary_round")
        assert (done["refused"], done["failed"]) == (1, 0)

        def scraped():
            with urllib.request.urlopen(process.url() + "/metrics", timeout=HANGS_S) as response:
                return response.read().decode()

        assert 'revoker_canary_seconds_count{target="service"} 1.0' in await asyncio.to_thread(scraped)
        process.send_signal()
        assert await asyncio.to_thread(process.status) == 0, process.output()
    assert "canary-secret" not in process.output()


async def test_what_init_writes_and_prints_is_all_that_a_canary_needs(start, valkey, tmp_path):
    folder = tmp_path / "made"
    service = await start(valkey, callers=callers(), issuers=issuers(tmp_path))
    made = CliRunner().invoke(command, ["canary", "init", str(folder), "--url", service.url])
    assert made.exit_code == 0, made.output
    out = made.output
    sections = out[out.index("[[issuers]]") : out.index("\n2. ")]
    printed = tomllib.loads(sections)
    printed["issuers"][0]["jwks_file"] = str(folder / printed["issuers"][0]["jwks_file"])
    configured = await start(valkey, issuers=printed["issuers"], callers=printed["callers"])
    config = folder / "canary.toml"
    config.write_text(config.read_text().replace(service.url, configured.url))

    checked = CliRunner().invoke(command, ["config", "check", "--config", str(config)])
    assert checked.output == f"{config}: a canary of 1 targets; no faults\n"
    status, out, err = await run(tmp_path, "canary", "--once", "--config", config)
    assert status == 0, out + err
    for secret in ("canary.key", "canary.secret"):
        assert (folder / secret).stat().st_mode & 0o777 == 0o600

    before = {path: path.read_bytes() for path in folder.iterdir()}
    again = CliRunner().invoke(command, ["canary", "init", str(folder), "--url", service.url])
    assert again.exit_code == 1
    assert "exists; nothing was written" in again.output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
