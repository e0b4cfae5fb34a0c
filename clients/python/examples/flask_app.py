"""REVOKER_URL=… REVOKER_SECRET=… flask --app flask_app run"""

import os

from flask import Flask, g

from revoker_client.flask import Revoker

app = Flask(__name__)
app.config["REVOKER_URL"] = os.environ["REVOKER_URL"]
app.config["REVOKER_SECRET"] = os.environ["REVOKER_SECRET"]
revoker = Revoker(app)


@app.get("/orders")
@revoker.token_required()
def orders() -> dict[str, str]:
    return {"user": g.token.sub}


@app.post("/orders")
@revoker.token_required("orders:write")
def order() -> dict[str, str]:
    return {"ordered_by": g.token.sub}


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
