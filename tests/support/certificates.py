"""Make a CA and certificates for tests, as the playbook makes them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme

from pibot.settings import Settings


@dataclass(frozen=True)
class Files:
    """The files of a host: its certificate, its key and the CA's certificate."""

    cert: Path
    key: Path
    ca: Path

    def environ(self) -> dict[str, str]:
        return {"PIBOT_TLS_CERT": str(self.cert), "PIBOT_TLS_KEY": str(self.key), "PIBOT_TLS_CA": str(self.ca)}

    def settings(self) -> Settings:
        return Settings(tls_cert=self.cert, tls_key=self.key, tls_ca=self.ca)

    def context(self, *, shown: bool = True) -> ssl.SSLContext:
        """Return a client's context, which trusts the CA and, if ``shown``, presents the certificate."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if shown:
            context.load_cert_chain(self.cert, self.key)
        return context


class Authority:
    """A certificate authority.

    Args:
        folder: for its files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.crt"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def certify(self, name: str, *addresses: str, days: int = 30) -> Files:
        """Issue a certificate with this common name.

        Args:
            addresses: its alternative names; 127.0.0.1 by default.
            days: until it expires; negative for one that has expired.
        """
        ends = datetime.now(timezone.utc) + timedelta(days=days)
        begins = ends - timedelta(days=400)
        issued = self._authority.issue_cert(
            *(addresses or ("127.0.0.1",)), common_name=name, not_before=begins, not_after=ends
        )
        files = Files(self._folder / f"{name}{days}.crt", self._folder / f"{name}{days}.key", self.ca)
        issued.cert_chain_pems[0].write_to_path(str(files.cert))
        issued.private_key_pem.write_to_path(str(files.key))
        return files
