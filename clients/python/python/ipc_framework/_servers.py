"""The servers that a client may use."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Sequence, Tuple, Union

from .exceptions import ConnectionError

#: `"a,b:9000"` or `["a", "b:9000"]`.
Hosts = Union[str, Sequence[str], None]
#: The path of a Unix socket, or several.
Paths = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]], None]

#: The host where none is given.
HOST = "localhost"
ORDERS = ("listed", "random")


def native_arguments(host: Any, port: Any, hosts: Any, unix: Any, address_order: Any) -> Dict[str, Any]:
    """Returns the servers as the native client takes them.

    Raises `ConnectionError` for wrong addresses, as the published client does.
    """
    if address_order not in ORDERS:
        raise ConnectionError(f"address_order is 'listed' or 'random', not {address_order!r}")
    paths = [] if unix is None else _several(unix, (str, os.PathLike))
    if unix is not None and not paths:
        raise ConnectionError(f"unix is the path of a socket, or a list of some, not {unix!r}")
    if hosts is not None:
        if paths:
            raise ConnectionError("give hosts or Unix sockets, which cannot be mixed")
        if host != HOST:
            raise ConnectionError("give host or hosts; each of hosts may have its own port, host:port")
        listed = _several(hosts, (str,))
        if not listed:
            raise ConnectionError(f"hosts is a list of names and addresses, not {hosts!r}")
        hosts = ",".join(listed)
    if not paths:
        if not isinstance(host, str):
            raise ConnectionError(f"host is a name or an address, not {host!r}")
        if not isinstance(port, int) or not 0 < port < 1 << 16:
            raise ConnectionError(f"port is a number from 1 to 65535, not {port!r}")
    # The others have no meaning with a Unix socket, and may be anything.
    where = {"host": HOST, "port": 1} if paths else {"host": host, "port": port}
    return {**where, "hosts": hosts, "unix": paths, "address_order": address_order}


def _several(given: Any, types: Tuple[type, ...]) -> List[Any]:
    """Returns one value or a list of some as a list, and an empty one for anything else."""
    if isinstance(given, types):
        return [given]
    try:
        listed = list(given)
    except TypeError:
        return []
    return listed if all(isinstance(one, types) for one in listed) else []
