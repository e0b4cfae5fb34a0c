"""``/docs`` in a real browser: it loads nothing from elsewhere, and "try it" gets an answer."""

import pytest

from tests.rig.service import SECRETS
from tests.site.conftest import barriers, click, type_in, until

OF_SWAGGER_UI = {"color-contrast", "nested-interactive", "select-name", "target-size"}
"""What Swagger UI 5.34 itself breaks of WCAG 2.2; docs/api.md has the same without these barriers."""

INTROSPECT = "#operations-Introspection-post_introspect"


@pytest.fixture
async def api_page(browser, start, valkey):
    """The page of a service, with all operations listed."""
    revoker = await start(valkey)
    await browser.open(f"{revoker.url}/docs")
    await until(browser, f"document.querySelector('{INTROSPECT}') && true")
    return browser, revoker


async def test_the_page_loads_without_an_error_and_asks_no_other_host(api_page):
    page, revoker = api_page
    await click(page, f"{INTROSPECT} .opblock-summary-control")
    await until(page, f"document.querySelector('{INTROSPECT} .opblock-body') && true")
    assert page.faults == []
    assert len(page.requested) >= 5
    assert [url for url in page.requested if not url.startswith((f"{revoker.url}/", "data:"))] == []


async def test_a_request_is_sent_by_the_page_and_answered(api_page):
    page, revoker = api_page
    await click(page, "button.authorize")
    await type_in(page, "#auth-basic-username", "gateway")
    await type_in(page, "#auth-basic-password", SECRETS["gateway"])
    await click(page, ".auth-container:has(#auth-basic-username) button.authorize")
    await click(page, ".btn-done")
    await click(page, f"{INTROSPECT} .opblock-summary-control")
    await click(page, f"{INTROSPECT} .try-out__btn")
    await type_in(page, f"{INTROSPECT} textarea", f'{{"token": "{revoker.token(sub="alice")}"}}')
    await click(page, f"{INTROSPECT} .execute")

    answer = await until(page, f"document.querySelector('{INTROSPECT} .live-responses-table')?.innerText")
    assert "200" in answer
    assert '"active": true' in answer
    assert '"sub": "alice"' in answer
    assert page.faults == []


async def test_the_page_adds_no_barriers_to_those_of_swagger_ui(api_page):
    page, _ = api_page
    await click(page, f"{INTROSPECT} .opblock-summary-control")
    await until(page, f"document.querySelector('{INTROSPECT} .opblock-body') && true")
    found = {barrier.partition(":")[0] for barrier in await barriers(page)}
    assert found <= OF_SWAGGER_UI
