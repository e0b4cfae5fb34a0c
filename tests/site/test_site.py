"""The site in a real browser: pages load nothing from elsewhere, diagrams are drawn, the search finds."""

import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.rig.service import HANGS_S
from tests.site.conftest import barriers, click, type_in, until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The site, made strictly: a link or an anchor that leads nowhere, or a page outside the order, fails."""
    folder = tmp_path_factory.mktemp("site")
    made = subprocess.run(
        [sys.executable, ROOT / "deploy/build_site.py", folder],
        capture_output=True,
        text=True,
        timeout=2 * HANGS_S,  # npm tries a download again after up to a minute
    )
    assert made.returncode == 0, made.stderr + made.stdout
    return folder


@pytest.fixture
async def site(built):
    async def page(request):
        path = built / request.match_info["path"]
        return web.FileResponse(path / "index.html" if path.is_dir() else path)

    application = web.Application()
    application.router.add_get("/{path:.*}", page)
    async with TestServer(application, host="127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.port}"


PAGES = ["/", "/docs/", "/docs/getting-started/", "/docs/api/", "/deploy/gateways/caddy/"]


async def test_pages_load_without_an_error_ask_no_other_host_and_have_the_version(browser, site):
    for path in PAGES:
        browser.events.clear()
        await browser.open(site + path)
        await until(
            browser, "document.querySelector('.md-nav__link--active, .md-tabs__item--active') && true"
        )
        assert browser.faults == [], path
        assert len(browser.requested) > 3, path
        assert [url for url in browser.requested if not url.startswith((f"{site}/", "data:", "blob:"))] == []
        assert "Revoker 0." in await browser.run("async () => document.querySelector('footer').innerText")


async def test_diagrams_are_drawn(browser, site):
    await browser.open(f"{site}/docs/architecture/")
    await until(browser, "document.querySelectorAll('div.mermaid').length === 5")
    assert await browser.run("async () => document.querySelectorAll('pre.mermaid').length") == 0
    assert browser.faults == []


async def test_the_search_finds_a_setting(browser, site):
    await browser.open(f"{site}/")
    await click(browser, "label[for=__search]")
    await type_in(browser, "input.md-search__input", "max_token_lifetime")
    links = "[...document.querySelectorAll('.md-search-result__link')].map((link) => link.href)"
    found = await until(browser, f"({links}).length > 0 && ({links})")
    assert any("/docs/configuration/" in link for link in found)
    assert browser.faults == []


async def test_pages_have_no_barriers(browser, site):
    for path in ("/", "/docs/getting-started/", "/docs/gateways/"):
        await browser.open(site + path)
        assert await barriers(browser) == [], path
