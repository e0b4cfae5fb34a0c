"""Commands on stores that answer oddly, refuse what is asked, or belong to other settings."""

import asyncio

import pytest

from tests.cli.test_transferring import Revoker, prefix, valkey  # noqa: F401  # fixtures
from tests.proxies import ReplyProxy, encode


@pytest.fixture
def revoker(tmp_path, valkey, prefix):  # noqa: F811
    return Revoker(tmp_path, valkey, prefix)


def reached_by(revoker, url):
    """Let the commands go to another URL."""
    path = revoker.folder / "revoker.toml"
    path.write_text(path.read_text().replace(revoker.valkey.url, url))


async def test_a_command_tells_of_a_reply_that_is_not_understood_without_a_traceback(revoker):
    async with ReplyProxy.before(revoker.valkey.port) as proxy:
        proxy.rules |= {"TIME": encode(5), "EVALSHA": encode(5), "EVAL": encode(5)}
        reached_by(revoker, proxy.url)
        for arguments in (("store", "check"), ("keys", "forget", "k")):
            status, _, err = await asyncio.to_thread(revoker.run, *arguments)
            assert status == 1
            assert "Traceback" not in err
            assert err.endswith("the store gave a reply that is not understood\n")
