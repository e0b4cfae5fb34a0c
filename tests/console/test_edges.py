"""The page after an action says how many edges have it."""

import pytest

from revoker.store.journal import shared_consumers
from tests.api.test_receipts import following
from tests.console.test_pages import action
from tests.rig.probes import eventually

MAY_DIFFER = "An edge that it has not reached may still answer as before"


@pytest.fixture
async def support(signed_in):
    return await signed_in("support")


async def log_out(support, sub="alice"):
    """Log a user out everywhere; returns the page after that."""
    preview = await support.open(action("revoke-user", sub=sub))
    return await support.send(preview, "/console/act/revoke-user")


async def reached(support, page, words):
    """The same page, once it says that."""
    last = page

    async def says_so():
        nonlocal last
        assert "The user is logged out everywhere." in last.words
        if words in last.words:
            return True
        last = await support.open(last.url)
        return False

    await eventually(says_so, what=words)
    return last


async def test_without_edges_the_change_is_in_effect_everywhere(support):
    page = await log_out(support)
    assert "No edge is connected. Revoker itself answers by this change." in page.words
    assert "Reached" not in page.words


async def test_the_page_says_that_all_edges_have_it(service, support):
    async with following(service, "north", confirms_at=service):
        page = await reached(support, await log_out(support), "Reached 1 of 1 edge: all that are connected")
        assert MAY_DIFFER not in page.words
        async with following(service, "south", confirms_at=service):
            page = await reached(support, page, "Reached 2 of 2 edges: all that are connected")
            assert MAY_DIFFER not in page.words


async def test_the_page_says_what_it_means_that_an_edge_does_not_have_it_until_it_does(service, support):
    async with following(service, "north", confirms_at=service):
        async with following(service, "south"):
            page = await reached(support, await log_out(support), "Reached 1 of 2 edges. Look again")
            assert MAY_DIFFER in page.words
            assert {"", "/console/state"} <= set(page.links)  # the first one leads to the same page
        async with following(service, "south", confirms_at=service):
            page = await reached(support, page, "Reached 2 of 2 edges: all that are connected")
            assert MAY_DIFFER not in page.words


async def test_without_the_number_of_edges_no_page_says_that_all_have_it(service, support, monkeypatch):
    async with following(service, "north", confirms_at=service):
        page = await reached(support, await log_out(support), "Reached 1 of 1 edge: all")
        monkeypatch.setattr(shared_consumers, "SETTLED_S", 3600)
        page = await reached(support, await support.open(page.url), "Reached 1 edge. How many are connected")
        assert "all that are connected" not in page.words
        monkeypatch.setattr(shared_consumers, "SETTLED_S", 0)
        await reached(support, page, "Reached 1 of 1 edge: all")
