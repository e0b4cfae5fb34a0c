"""`revoker store init` where a deployer runs it again and again."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def init(tmp_path, own_valkey):
    """Run the command on an empty store."""

    def run(*options):
        return subprocess.run(
            [sys.executable, "-m", "revoker", "store", "init", *options],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "REVOKER_REDIS__URL": own_valkey.url, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_a_store_is_declared_new_once(init):
    assert init().returncode == 0
    again = init()
    assert again.returncode == 1
    assert "epoch already" in again.stderr


def test_a_declared_store_is_left_alone_on_request(init, own_valkey):
    assert init("--or-known").returncode == 0
    with own_valkey.client() as client:
        epoch = client.get("rv:epoch")
        assert init("--or-known").returncode == 0
        assert client.get("rv:epoch") == epoch


def test_where_a_file_says_that_it_was_done_nothing_is_done(init, own_valkey, tmp_path):
    note = tmp_path / "initialised"
    note.touch()
    assert init("--unless", note).returncode == 0
    with own_valkey.client() as client:
        assert client.keys("*") == []
    note.unlink()
    assert init("--unless", note).returncode == 0
    with own_valkey.client() as client:
        assert client.exists("rv:epoch")
