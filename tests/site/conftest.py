"""A browser whose requests and errors are recorded, and what tests of pages do in it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.chromium import Page, chromium

AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"

WAIT_FOR = """(found) => new Promise((resolve) => {
  const look = () => { const value = found(); value ? resolve(value) : setTimeout(look, 10) }
  look()
})"""
"""Resolves with the first true value of a function. It is called again and again: a new address, for example,
changes nothing in the document."""

WCAG = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
"""The rules of axe-core for WCAG 2.2, levels A and AA."""

AUDIT = """async (...rules) => {
  for (const animation of document.getAnimations()) {
    try { animation.finish() } catch { animation.cancel() } // one without an end
  }
  const found = await axe.run(document, {runOnly: rules})
  const places = (nodes) => nodes.map((node) => node.target.join(" ")).join(", ")
  return found.violations.map(({id, nodes}) => `${id}: ${places(nodes)}`)
}"""
"""On its way to another color, a text can have too little contrast."""


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path / "chromium") as page:
        await page.watch()
        yield page


async def until(page: Page, expression: str) -> Any:
    """The value of an expression of the page, as soon as it is true."""
    return await page.run(f"async () => await ({WAIT_FOR})(() => ({expression}))")


async def click(page: Page, selector: str) -> None:
    """Click what a selector finds, once it is there."""
    await until(page, f"document.querySelector({json.dumps(selector)}) && true")
    await page.run("async (selector) => document.querySelector(selector).click()", selector)


async def type_in(page: Page, selector: str, text: str) -> None:
    """Replace the text of a field, as a user does."""
    await until(page, f"document.querySelector({json.dumps(selector)}) && true")
    script = """async (selector, text) => {
      const field = document.querySelector(selector)
      Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set.call(field, text)
      field.dispatchEvent(new Event("input", {bubbles: true}))
      field.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true})) // the search of the site reads it then
    }"""
    await page.run(script, selector, text)


async def barriers(page: Page, *more: str) -> list[str]:
    """What axe-core finds by its rules for WCAG 2.2, levels A and AA, and by those with any of these tags."""
    await page.command("Runtime.evaluate", expression=AXE.read_text())
    found: list[str] = await page.run(AUDIT, *WCAG, *more)
    return found
