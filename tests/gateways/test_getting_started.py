"""Every shell block of docs/getting-started.md and of the README, run as a reader would, on free ports."""

import os
import re
import signal
import subprocess

import pytest

from tests.rig.processes import REPOSITORY, until
from tests.rig.servers import free_port
from tests.rig.service import HANGS_S

GETTING_STARTED = REPOSITORY / "docs/getting-started.md"
README = REPOSITORY / "README.md"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


class Terminal:
    """Runs what a page says in a copy of the clone, with its ports changed to free ones."""

    def __init__(self, folder):
        self.folder = folder
        self.ports = {port: str(free_port()) for port in ("8000", "8001", "8080", "9000")}
        for entry in REPOSITORY.iterdir():
            if entry.name not in {".revoker", "deploy"}:
                (folder / entry.name).symlink_to(entry)
        caddy = folder / "deploy/gateways/caddy"
        caddy.mkdir(parents=True)
        text = (REPOSITORY / "deploy/gateways/caddy/Caddyfile").read_text()
        (caddy / "Caddyfile").write_text(self.changed(text))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REVOKER")}
        self._environ = {
            **inherited,
            "REVOKER_SERVER__PORT": self.ports["8080"],
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
        }
        self._started = []

    def changed(self, text):
        return re.sub(r"\b(8000|8001|8080|9000)\b", lambda found: self.ports[found[1]], text)

    def start(self, script, name):
        """Start a script that does not end; its output goes to a file."""
        output = self.folder / f"{name}.log"
        with output.open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-ec", self.changed(script)],
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process, output

    def run(self, script):
        """What a script prints; it must succeed."""
        done = subprocess.run(
            ["bash", "-ec", self.changed(script)],
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANGS_S,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def close(self):
        """End everything that was started, what it has started included."""
        for process in self._started:
            os.killpg(process.pid, signal.SIGTERM)
        for process in self._started:
            process.wait(HANGS_S)


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.fixture
def service(terminal):
    """The output of `make run`, once the service serves."""
    first = blocks(GETTING_STARTED, "sh")[0]
    assert first == "make run\n"
    process, output = terminal.start(first, "service")

    def welcome():
        text = output.read_text()
        assert process.poll() is None, text
        return text if "More tokens" in text else None

    return until(welcome, "the start of the service")


def test_the_three_lines_that_the_service_prints_show_a_token_refused(terminal, service):
    answers = [terminal.run(line) for line in service.splitlines() if line.startswith("curl ")]
    assert [len(answers), '"active":true' in answers[0], answers[2].strip()] == [3, True, '{"active":false}']


def test_the_readme_shows_what_its_commands_print(terminal, service):
    [block] = blocks(README, "console")
    commands, expected = [], []
    for line in block.splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
        else:
            expected.append(line)
    printed = terminal.run("\n".join(f"{command}\necho" for command in commands)).split("\n")
    printed = [line for line in printed if line]
    assert len(printed) == len(expected) == 3
    for line, example in zip(printed, expected, strict=True):
        pattern = re.sub(r"\\\.?…|…", ".*", re.escape(re.sub(r"\d{10}\.\d+", "…", example)))
        assert re.fullmatch(pattern, line), (example, line)


def test_a_gateway_refuses_the_token_of_a_user_that_was_logged_out(terminal, service):
    _, gateway, steps, sessions = blocks(GETTING_STARTED, "sh")
    terminal.start(gateway, "gateway")
    [first] = [line for line in steps.splitlines() if "401: no token" in line]
    until(lambda: terminal.run(f"set +e\n{first}\ntrue").strip() == "401", "the start of the gateway")
    lines = terminal.run(steps).splitlines()
    assert [lines[0], lines[1], lines[3]] == ["401", "200", "401"]
    assert '"sub":"bob"' in lines[2]
    assert '"reason":"user_cutoff"' in lines[4]
    assert "laptop stolen" in lines[4]
    _use_sessions(terminal, sessions)


def _use_sessions(terminal, block):
    """Each answer is pasted into the next command, as the page says."""
    begin, refresh, listed = re.split(r"\n(?=curl )", block)
    started = terminal.run(f". .revoker/dev.env\n{begin}")
    [token] = re.findall(r'"refresh_token":"([^"]+)"', started)
    assert '"access_token"' in terminal.run(
        ". .revoker/dev.env\n" + refresh.replace("<refresh_token>", token)
    )
    assert '"device":"phone"' in terminal.run(f". .revoker/dev.env\n{listed}")


def test_every_shell_block_of_the_page_is_run():
    assert len(blocks(GETTING_STARTED, "sh")) == 4
