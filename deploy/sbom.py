"""Adds to a bill of materials what is not a Python package: Swagger UI, which the service carries."""

import base64
import json
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent


def main() -> None:
    """Change the file that is named."""
    path = Path(sys.argv[1])
    bill = json.loads(path.read_text(encoding="utf-8"))
    lock = json.loads((ROOT / "deploy/swagger-ui/package-lock.json").read_text(encoding="utf-8"))
    package = lock["packages"]["node_modules/swagger-ui-dist"]
    algorithm, _, digest = package["integrity"].partition("-")
    checksum = {"alg": algorithm.upper().replace("SHA", "SHA-"), "content": base64.b64decode(digest).hex()}
    purl = f"pkg:npm/swagger-ui-dist@{package['version']}"
    bill["components"].append(
        {
            "bom-ref": purl,
            "type": "library",
            "name": "swagger-ui-dist",
            "version": package["version"],
            "purl": purl,
            "licenses": [{"license": {"id": package["license"]}}],
            "hashes": [checksum],
        }
    )
    path.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
