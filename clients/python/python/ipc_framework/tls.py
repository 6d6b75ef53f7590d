"""TLS between a client and its server."""

import os
from typing import NamedTuple, Optional, Union

from . import _installed

_installed.check()

Path = Union[str, "os.PathLike[str]"]


class Tls(NamedTuple):
    """The certificates that a client trusts, and the one that it shows.

    The files are PEM, and read again for every connection.

    `ca` has authorities: the client trusts servers whose certificates one of them has signed, and without it those
    that the system trusts. `cert` and `key` are for servers that ask for a certificate (mutual TLS); other users of
    the machine must not be able to read the key. `name` is the expected name in the server's certificate, by default
    the host.
    """

    ca: Optional[Path] = None
    cert: Optional[Path] = None
    key: Optional[Path] = None
    name: Optional[str] = None


def given(tls: Union[bool, Tls, None]) -> Optional[Tls]:
    """Returns the certificates for the parameter `tls`."""
    return Tls() if tls is True else tls or None
