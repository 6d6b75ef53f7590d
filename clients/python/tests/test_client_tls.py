"""Both clients over TLS, against `ipc serve` with certificates made on the spot."""

import asyncio

import pytest
from certificates import Certificates
from peers import RustServer, eventually, free_port

from ipc_framework import FrameworkClient, aio
from ipc_framework.exceptions import ConnectionError
from ipc_framework.tls import Tls


@pytest.fixture
def secure(tmp_path):
    """Starts servers with these certificates; they end with the test."""
    started = []

    def start(certificates, mutual=False, port=0):
        started.append(RustServer(*certificates.flags(mutual), port=port))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path / "ours")


def connected(server, tls, host="localhost", **options):
    client = FrameworkClient("bench", host, server.port, tls=tls, **options)
    assert client.connect(), client.last_error
    return client


def refused(port, tls, host="localhost", **options):
    """Why neither client connects."""
    client = FrameworkClient("bench", host, port, tls=tls, reconnect=False, **options)
    assert not client.connect()
    error = client.last_error
    assert isinstance(error, ConnectionError)
    with pytest.raises(ConnectionError) as raised:
        asyncio.run(once(port, tls, host))
    assert (str(raised.value), raised.value.code) == (str(error), error.code)
    return error


async def once(port, tls, host="localhost"):
    async with aio.connect("bench", host, port, tls=tls) as client:
        return (await client.request("echo", 1)).payload


def trust_and_show(certificates):
    return Tls(certificates.ca, certificates.client, certificates.client_key)


def test_large_messages_go_both_ways_and_the_end_loses_nothing(secure, certificates):
    server = secure(certificates)
    large = "x" * (1 << 20)
    with connected(server, Tls(ca=str(certificates.ca))) as listener:
        seen = []
        listener.subscribe("news", lambda message: seen.append(message.payload[0]))
        listener.ping()
        with connected(server, Tls(ca=certificates.ca)) as client:
            for payload in (large, None, {"a": [large]}):
                assert client.send_request("echo", payload).payload == payload
            for number in range(300):
                client.publish("news", [number, "y" * 10_000])
        eventually("all of it", lambda: len(seen) == 300)
        assert seen == list(range(300))

    async def many():
        async with aio.connect("bench", "localhost", server.port, tls=Tls(ca=certificates.ca)) as client:
            return await asyncio.gather(*(client.request("echo", [n, large[: n * 10_000]]) for n in range(50)))

    assert [answer.payload[0] for answer in asyncio.run(many())] == list(range(50))


def test_a_server_that_asks_for_certificates_lets_in_whom_its_authority_knows(secure, certificates, tmp_path):
    server = secure(certificates, mutual=True)
    with connected(server, trust_and_show(certificates)) as client:
        assert client.send_request("echo", 1).payload == 1
    assert asyncio.run(once(server.port, trust_and_show(certificates))) == 1
    error = refused(server.port, Tls(ca=certificates.ca))
    assert error.code == "tls" and "asks for a certificate of the client's" in str(error)
    strangers = Certificates(tmp_path / "strangers")
    error = refused(server.port, Tls(certificates.ca, strangers.client, strangers.client_key))
    assert error.code == "tls" and "does not accept this client's certificate" in str(error)


def test_a_server_whose_certificate_is_of_others_old_or_unknown_is_not_talked_to(
    secure, certificates, tmp_path, monkeypatch
):
    server = secure(certificates)
    others = Certificates(tmp_path / "others")
    # In place of the system's.
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    connected(server, True).disconnect()
    monkeypatch.setenv("SSL_CERT_FILE", str(others.ca))
    for tls in (Tls(ca=others.ca), True):
        error = refused(server.port, tls)
        assert error.code == "tls" and "signed by nobody whom this client trusts" in str(error)
    error = refused(server.port, Tls(ca=certificates.ca), host="127.0.0.1")
    assert error.code == "tls" and "not for 127.0.0.1 but for" in str(error)
    connected(server, Tls(ca=certificates.ca, name="localhost"), host="127.0.0.1").disconnect()
    past = Certificates(tmp_path / "past", days=-1)
    error = refused(secure(past).port, Tls(ca=past.ca))
    assert error.code == "tls" and "has expired; renew it" in str(error)


def test_who_speaks_tls_to_those_who_do_not_is_told_so_and_the_other_way_round(secure, certificates):
    server = secure(certificates)
    for plain in (None, False):
        error = refused(server.port, plain)
        assert error.code == "protocol" and "this port speaks TLS" in str(error)
    plain = RustServer()
    try:
        error = refused(plain.port, Tls(ca=certificates.ca))
        assert error.code == "tls" and "what answers there is not TLS" in str(error)
    finally:
        plain.stop()


def test_files_that_cannot_be_used_are_told_before_anything_is_connected(certificates):
    nowhere = free_port()

    def told(*files, **options):
        error = refused(nowhere, Tls(*files, **options))
        secret = certificates.client_key.read_text().splitlines()[1]
        assert error.code == "tls" and secret not in str(error)
        return str(error)

    assert "/nonexistent/ca.pem" in told("/nonexistent/ca.pem")
    assert "holds no certificate" in told(certificates.client_key)
    assert "give cert and key" in told(certificates.ca, certificates.client)
    assert "do not work together" in told(certificates.ca, certificates.client, certificates.server_key)
    assert "is no name or address" in told(certificates.ca, name="no host")
    certificates.client_key.chmod(0o644)
    assert "chmod 600" in told(certificates.ca, certificates.client, certificates.client_key)
    with pytest.raises(TypeError):
        FrameworkClient("bench", "localhost", nowhere, tls="ca.pem").connect()


def test_a_client_comes_back_with_whatever_certificates_there_are_by_then(secure, certificates, tmp_path):
    port = free_port()
    first = secure(certificates, mutual=True, port=port)
    seen, whys = [], []
    with connected(first, trust_and_show(certificates), reconnect=(0.01, 0.1)) as client:
        client.on_event(lambda event: whys.append(event.error) if event.name == "unreachable" else None)
        client.subscribe("news", lambda message: seen.append(message.payload))
        first.kill()
        # Somebody else's server takes its place: nobody is talked into it, and nobody gives up.
        strangers = Certificates(tmp_path / "strangers")
        stranger = secure(strangers, port=port)
        eventually("the stranger is told of", lambda: any(why.code == "tls" for why in whys))
        stranger.kill()
        certificates.renew(strangers)
        secure(certificates, mutual=True, port=port)
        eventually("it is back", lambda: client.connected)
        client.publish("news", 7)
        eventually("it listens still", lambda: seen == [7])
