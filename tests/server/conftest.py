import dataclasses
import datetime as dt
import ipaddress
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.rig.processes import Process

STANDIN = Path(__file__).parent / "standin.py"
CALLER = {"name": "gateway", "secret_sha256": ["0" * 64], "scopes": ["introspect"]}
ISSUER = {"name": "main", "issuer": "https://idp.test", "audiences": ["a"], "jwks_file": "none"}


@pytest.fixture
def settings(tmp_path):
    """Write the settings that a started stand-in reads; returns the file."""

    def write(callers=1, **server):
        values = {
            "server": {"port": 0, "drain_seconds": 0, **server},
            "redis": {"url": "redis://127.0.0.1:1"},
            "issuers": [ISSUER],
            "callers": [{**CALLER, "name": f"c{i}", "secret_sha256": [f"{i}" * 64]} for i in range(callers)],
        }
        file = tmp_path / "settings.json"
        file.write_text(json.dumps(values))
        return file

    return write


@pytest.fixture
def standin(tmp_path, settings):
    """A stand-in with these settings of ``[server]``, not started yet."""

    def make(environ=None, **server):
        return Process(tmp_path, STANDIN, settings(**server), **(environ or {}))

    return make


@dataclasses.dataclass
class Certificates:
    """Paths: an authority, and pairs of certificate and key; the stranger's is another authority's."""

    authority: str
    server: tuple[str, str]
    client: tuple[str, str]
    stranger: tuple[str, str]


@pytest.fixture
def certificates(tmp_path):
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    return Certificates(
        authority=ours.file,
        server=ours.issue("server", "127.0.0.1"),
        client=ours.issue("gateway"),
        stranger=other.issue("gateway"),
    )


class Authority:
    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.signed(
            name, self.key.public_key(), [x509.BasicConstraints(ca=True, path_length=0)]
        )
        self.file = self.written(f"{name}-ca.pem", certificate.public_bytes(Encoding.PEM))

    def signed(self, name, key, extensions):
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name, address=None):
        key = ec.generate_private_key(ec.SECP256R1())
        names = (
            [x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])] if address else []
        )
        certificate = self.signed(name, key.public_key(), names)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return (
            self.written(f"{self.name}-{name}.pem", certificate.public_bytes(Encoding.PEM)),
            self.written(f"{self.name}-{name}.key", pem),
        )

    def written(self, name, content):
        (self.folder / name).write_bytes(content)
        return str(self.folder / name)
