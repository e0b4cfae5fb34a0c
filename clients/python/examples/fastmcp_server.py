"""REVOKER_URL=… REVOKER_SECRET=… uvicorn fastmcp_server:app"""

import os

from fastmcp import FastMCP
from fastmcp.server.dependencies import get_access_token

from revoker_client import RevokerClient
from revoker_client.fastmcp import RevokerTokenVerifier

client = RevokerClient(os.environ["REVOKER_URL"], os.environ["REVOKER_SECRET"])
verifier = RevokerTokenVerifier(client, base_url="http://127.0.0.1:8000")
mcp = FastMCP("orders", auth=verifier)


@mcp.tool
def orders() -> str:
    """The orders of the agent's user."""
    token = get_access_token()
    return f"orders of {token.claims['sub'] if token else 'nobody'}"


app = verifier.guard(mcp.http_app())
