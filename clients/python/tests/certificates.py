"""Certificates for the tests of TLS, made anew each time."""

import subprocess


def openssl(*arguments):
    made = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert made.returncode == 0, f"openssl, which makes certificates for tests: {made.stderr}"


class Certificates:
    """An authority, and certificates of a server and of a client that it has signed, in PEM files."""

    def __init__(self, directory, name="DNS:localhost", days=30):
        directory.mkdir()
        self.directory = directory
        self.ca, self.server, self.client = (directory / f"{who}.pem" for who in ("ca", "server", "client"))
        self.server_key, self.client_key = (directory / f"{who}.key" for who in ("server", "client"))
        self._make("ca", self.ca, "-x509", "-addext", "basicConstraints=critical,CA:TRUE")
        self._sign("server", days, f"subjectAltName={name}")
        self._sign("client", 30, "extendedKeyUsage=clientAuth")

    def _make(self, who, out, *arguments):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
        files = ["-keyout", self.directory / f"{who}.key", "-out", out]
        openssl("req", "-config", "/dev/null", "-subj", f"/CN={who}", *key, *files, *arguments)

    def _sign(self, who, days, extension):
        unsigned = self.directory / f"{who}.csr"
        self._make(who, unsigned, "-addext", extension)
        signed_by = ["-CA", self.ca, "-CAkey", self.directory / "ca.key", "-copy_extensions", "copy"]
        out = self.directory / f"{who}.pem"
        openssl("x509", "-req", "-in", unsigned, *signed_by, "-days", days, "-out", out)

    def renew(self, others):
        """What others have takes the place of it all."""
        for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key"):
            (self.directory / name).write_bytes((others.directory / name).read_bytes())

    def flags(self, mutual=False):
        """Of `ipc serve`."""
        flags = ["--tls-cert", self.server, "--tls-key", self.server_key]
        return flags + ["--tls-client-ca", self.ca] if mutual else flags
