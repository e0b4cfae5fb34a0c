"""The bill of materials: everything that the image installs, with its version and checksums."""

import json
import re
import subprocess

import pytest

from revoker import __version__
from tests.deploy.conftest import ROOT


@pytest.fixture(scope="module")
def bill(tmp_path_factory):
    file = tmp_path_factory.mktemp("sbom") / "revoker.cdx.json"
    made = subprocess.run(
        ["make", "--silent", "sbom", f"SBOM={file}"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert made.returncode == 0, made.stderr
    return json.loads(file.read_text())


def test_it_names_everything_that_is_locked(bill):
    locked = re.findall(
        r"^([a-z0-9._-]+)==([^ ;\\]+)", (ROOT / "requirements/service.txt").read_text(), re.MULTILINE
    )
    assert len(locked) > 10
    components = {(item["name"], item["version"]) for item in bill["components"]}
    assert components == set(locked)


def test_every_component_can_be_identified(bill):
    for item in bill["components"]:
        assert item["purl"] == f"pkg:pypi/{item['name']}@{item['version']}"
        hashes = [found for reference in item["externalReferences"] for found in reference.get("hashes", [])]
        assert any(found["alg"] == "SHA-256" for found in hashes), item["name"]


def test_it_is_about_revoker(bill):
    about = bill["metadata"]["component"]
    assert bill["bomFormat"] == "CycloneDX"
    assert (about["type"], about["name"]) == ("application", "revoker")
    assert about.get("version", __version__) == __version__
