"""Every shell block of the how-to pages does what its page says, on a real service and a real store."""

import pytest

from tests.pages.bench import Bench
from tests.pages.prepared import PREPARED
from tests.rig.processes import REPOSITORY
from tests.rig.shell_blocks import blocks_of


@pytest.fixture
def bench(tmp_path, own_valkey, start):
    folder = tmp_path / "bench"
    folder.mkdir()
    return Bench(folder, own_valkey, start)


@pytest.mark.parametrize("page", PREPARED)
async def test_the_blocks_of_a_page_do_what_it_says(bench, page):
    blocks = [block for block in blocks_of(REPOSITORY / page) if not block.not_run]
    for block, prepare in zip(blocks, PREPARED[page], strict=True):
        async with prepare(bench) as status:
            for command, shown in block.commands:
                await bench.check(command, shown, status or 0)
