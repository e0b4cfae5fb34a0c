"""Certificates of an authority that exists for one test."""

import datetime as dt
import ipaddress
import itertools
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = dt.timedelta(days=1)


class Authority:
    """Issues certificates; its files lie in ``folder``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._count = itertools.count()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.certificate = folder / "authority.pem"
        signed = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def server_settings(self, dns: str = "") -> dict[str, str]:
        """Settings of a listener on 127.0.0.1, or of a host, that asks its clients for certificates."""
        here = x509.DNSName(dns) if dns else x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate, key = self._issue(dns or "127.0.0.1", here, client=False)
        return {
            "tls_cert_file": str(certificate),
            "tls_key_file": str(key),
            "tls_client_ca_file": str(self.certificate),
        }

    def client(self, name: str | None, *, dns: str = "") -> ssl.SSLContext:
        """What a client shows: a certificate for the name, or none; it trusts this authority."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if name is not None:
            context.load_cert_chain(*self.client_files(name, dns=dns))
        return context

    def client_files(self, name: str, *, dns: str = "") -> tuple[Path, Path]:
        """The certificate of a client, and its key."""
        return self._issue(name, x509.DNSName(dns) if dns else None, client=True)

    def _issue(self, name: str, alternative: x509.GeneralName | None, *, client: bool) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        use = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = self._builder(subject, key).add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        if alternative is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        stem = self.folder / f"certificate-{next(self._count)}"
        certificate, secret = stem.with_suffix(".pem"), stem.with_suffix(".key")
        certificate.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, secret

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )
