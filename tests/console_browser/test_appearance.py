"""The pages for everybody: by screen reader, in light and dark, on a phone; and the pictures in the docs."""

import os
import struct
from pathlib import Path

import pytest

from tests.console_browser.test_people import ACT, USER
from tests.rig import forge
from tests.sessions.conftest import SESSIONS_ISSUER, sessions_section  # noqa: F401  # a fixture
from tests.site.conftest import barriers

PICTURES = Path(__file__).parents[2] / "docs/pictures"
LONG = "a-very-long-name-without-any-place-to-break-it-" * 5

PAGES = (
    "/console",
    "/console/token",
    "/console/changes",
    "/console/revoke",
    "/console/state",
    USER + "alice",
    f"/console/user?iss={SESSIONS_ISSUER}&sub=alice",
    USER + LONG,
    ACT.format("revoke-user") + "sub=alice",
    ACT.format("block-user") + f"sub={LONG}",
    ACT.format("revoke-client") + f"client_id={LONG}",
    ACT.format("revoke-user"),  # an error
)


@pytest.fixture
async def furnished(enter, sessions_section):  # noqa: F811
    """A service in use, and an administrator."""
    service, admin = await enter("admin", sessions=sessions_section())
    for device, agent in (("Laptop", "Firefox 151 on Linux"), ("Phone", "Chrome 149 on Android")):
        login = {"sub": "alice", "device": device, "ip": "192.0.2.7", "user_agent": agent, "client_id": "web"}
        assert (await service.post("/sessions", login)).status == 201
    await service.post("/revoke-user", {"sub": "alice", "iss": forge.ISSUER, "reason": "laptop stolen"})
    await service.post("/block-user", {"sub": "alice", "iss": forge.ISSUER, "reason": "fraud"})
    await service.post("/revoke-user", {"sub": "bob", "iss": forge.ISSUER, "reason": "password changed"})
    await service.post("/revoke-user", {"sub": LONG, "iss": forge.ISSUER, "reason": LONG})
    return service, admin


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_has_barriers_and_all_fit_on_a_phone(furnished, scheme):
    _, admin = furnished
    for width in (360, 1000):
        await admin.look(width=width, scheme=scheme)
        for path in PAGES:
            await admin.go(path)
            assert await barriers(admin.page) == [], (path, width)
            assert await admin.run("document.documentElement.scrollWidth") <= width, path
            assert await admin.run("document.querySelectorAll('h1').length") == 1
            assert await admin.run("document.title") != ""


async def test_the_page_for_signing_in_has_no_barriers(furnished):
    _, admin = furnished
    await admin.look(width=360, scheme="dark")
    await admin.click(".who button")
    assert await admin.path() == "/console/sign-in"
    assert await barriers(admin.page) == []
    assert admin.page.faults == []


async def test_dark_is_dark_and_light_is_light(furnished):
    _, admin = furnished
    colors = []
    for scheme in ("light", "dark"):
        await admin.look(scheme=scheme)
        await admin.go("/console")
        colors.append(await admin.run("getComputedStyle(document.body).backgroundColor"))
    assert colors == ["rgb(255, 255, 255)", "rgb(22, 22, 26)"]


PICTURED = {
    "console-user.png": (f"/console/user?iss={SESSIONS_ISSUER}&sub=alice", 900, 760, "light"),
    "console-confirm.png": (ACT.format("revoke-client") + "client_id=web-shop", 900, 800, "dark"),
    "console-phone.png": (USER + "alice", 360, 640, "light"),
}


async def test_pictures_in_the_docs_are_of_these_pages(furnished):
    """With ``PICTURES=1`` they are made again."""
    _, admin = furnished
    for name, (path, width, height, scheme) in PICTURED.items():
        await admin.look(width=width, height=height, scheme=scheme)
        await admin.go(path)
        shot = await admin.picture()
        if os.environ.get("PICTURES"):
            (PICTURES / name).write_bytes(shot)
        old_size, size = (struct.unpack(">II", png[16:24]) for png in ((PICTURES / name).read_bytes(), shot))
        assert old_size == size == (width, height)
    page = (PICTURES.parent / "console.md").read_text()
    assert [name for name in PICTURED if f"pictures/{name}" not in page] == []
