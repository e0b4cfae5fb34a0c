"""``/docs`` in a real browser: it loads nothing from elsewhere, and "try it" gets an answer."""

import json

import pytest

from tests.rig.service import SECRETS
from tests.site.conftest import barriers, click, type_in, until

INTROSPECT = "#operations-Introspection-post_introspect"
REVOKE_USER = "#operations-Revocation-post_revoke_user"
FEED = "#operations-Feed-get_feed"


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


async def authorize(page):
    """Enter the secret of the gateway, with the dialog still open."""
    await click(page, "button.authorize")
    await type_in(page, "#auth-basic-username", "gateway")
    await type_in(page, "#auth-basic-password", SECRETS["gateway"])
    await click(page, ".auth-container:has(#auth-basic-username) button.authorize")


async def introspect(page, token):
    """What the page shows as the answer."""
    await click(page, f"{INTROSPECT} .opblock-summary-control")
    await click(page, f"{INTROSPECT} .try-out__btn")
    await type_in(page, f"{INTROSPECT} textarea", json.dumps({"token": token}))
    await click(page, f"{INTROSPECT} .execute")
    answer = f"document.querySelector('{INTROSPECT} .live-responses-table')?.innerText"
    return await until(page, f"{answer}?.includes('\"active\"') && {answer}")


async def choose(page, selector, value):
    """Choose an option, as a user does."""
    await until(page, f"document.querySelector({json.dumps(selector)}) && true")
    script = """async (selector, value) => {
      const field = document.querySelector(selector)
      field.value = value
      field.dispatchEvent(new Event("change", {bubbles: true}))
    }"""
    await page.run(script, selector, value)


async def test_a_request_is_sent_by_the_page_and_answered(api_page):
    page, revoker = api_page
    await authorize(page)
    await click(page, ".btn-done")
    answer = await introspect(page, revoker.token(sub="alice"))
    assert "200" in answer
    assert '"active": true' in answer
    assert '"sub": "alice"' in answer
    assert page.faults == []


async def test_an_open_operation_has_an_address(api_page):
    page, _ = api_page
    await click(page, f"{INTROSPECT} .opblock-summary-control")
    address = await until(page, "location.hash.length > 1 && location.href")
    await page.open("about:blank")
    await page.open(address)
    assert await until(page, f"document.querySelector('{INTROSPECT} .opblock-body') && true")


async def test_the_page_has_no_barriers_before_and_after_a_request(api_page):
    page, revoker = api_page
    assert await barriers(page, "best-practice") == []
    await authorize(page)
    await click(page, ".btn-done")
    assert "200" in await introspect(page, revoker.token())
    for scheme in ("light", "dark"):
        await page.command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        assert await barriers(page, "best-practice") == [], scheme


async def test_the_dialog_for_secrets_has_no_barriers(api_page):
    page, _ = api_page
    await click(page, "button.authorize")
    await until(page, "document.querySelector('#auth-basic-username') && true")
    assert await barriers(page, "best-practice") == []
    await authorize(page)
    await until(page, "document.querySelector('.auth-container h6') && true")
    assert await barriers(page, "best-practice") == []


async def test_forms_parameters_and_schemas_have_no_barriers(api_page):
    page, _ = api_page
    for operation in (REVOKE_USER, FEED):
        await click(page, f"{operation} .opblock-summary-control")
        await click(page, f"{operation} .try-out__btn")
    await choose(page, f"{REVOKE_USER} .body-param-content-type select", "application/x-www-form-urlencoded")
    await click(page, f"{REVOKE_USER} .responses-table [data-name=model]")
    await click(page, f"{REVOKE_USER} .json-schema-2020-12-expand-deep-button")
    await click(page, ".models .json-schema-2020-12-expand-deep-button")
    await until(page, "document.querySelectorAll('.parameter__empty_value_toggle').length > 1")
    assert await barriers(page, "best-practice") == []


async def test_a_box_for_an_empty_value_belongs_to_the_field_above_it(api_page):
    """Swagger UI gives all of them one id."""
    page, _ = api_page
    await click(page, f"{REVOKE_USER} .opblock-summary-control")
    await click(page, f"{REVOKE_USER} .try-out__btn")
    await choose(page, f"{REVOKE_USER} .body-param-content-type select", "application/x-www-form-urlencoded")
    labels = "[...document.querySelectorAll('.parameter__empty_value_toggle')]"
    await until(page, f"{labels}.length > 1")
    assert await page.run(f"async () => {labels}.every((label) => label.contains(label.control))")
