"""TLS between a client and its server."""

from __future__ import annotations

import os
from typing import NamedTuple, Optional, Union

Path = Union[str, "os.PathLike[str]"]


class Tls(NamedTuple):
    """What a client trusts, and shows of itself; the files are PEM, and read again for every connection.

    `ca` names authorities: only servers whose certificates one of them has signed are trusted; without it those
    are that the system trusts. `cert` and `key` are for servers that ask for a certificate (mutual TLS); nobody
    else on the machine may read the key. `name` is what the server's certificate is to be for, by default the host
    that is connected to.
    """

    ca: Optional[Path] = None
    cert: Optional[Path] = None
    key: Optional[Path] = None
    name: Optional[str] = None


def given(tls: Union[bool, Tls, None]) -> Optional[Tls]:
    """What the parameter `tls` stands for."""
    return Tls() if tls is True else tls or None
