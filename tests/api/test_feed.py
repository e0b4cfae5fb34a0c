"""The feed, from the front door: what is acknowledged is in it, and what it says of itself is true."""

from tests.rig import feed


async def test_first(revoker):
    begin = await feed.snapshot(revoker)
    print(begin)
    async with feed.stream(revoker, begin.cursor) as stream:
        print(await stream.until("fresh"))
        assert (await revoker.post("/revoke", {"iss": "https://idp.example.com", "jti": "a"})).status == 200
        print(await stream.until("change"))
        print(await stream.until("fresh"))
        assert (await revoker.post("/revoke-user", {"iss": "https://idp.example.com", "sub": "alice"})).status == 200
        assert (await revoker.post("/block-user", {"iss": "https://idp.example.com", "sub": "alice"})).status == 200
        assert (await revoker.post("/unblock-user", {"iss": "https://idp.example.com", "sub": "alice"})).status == 200
        print(await stream.until("fresh"))
        print(await stream.until("fresh"))
    print(await feed.poll(revoker, begin.cursor, 1))
    print(await feed.snapshot(revoker))
    print((await revoker.ask("GET", "/feed/consumers", headers=feed.authorization("admin"))).json)
    assert 0
