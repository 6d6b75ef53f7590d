"""A client that knows two servers which NATS joins moves between them, and stays reachable for those of a third one."""

from peers import STEP_SECONDS_MAX, JoinedServer, NatsServer, eventually

from ipc_framework import FrameworkClient

QUICK = (0.01, 0.05)


def at(*servers):
    return [f"127.0.0.1:{server.port}" for server in servers]


def asked(client, payload):
    """The answer of the client that moves, or nothing while none knows where it is."""
    answer = client.send_request("mine", payload, STEP_SECONDS_MAX).payload
    if isinstance(answer, dict):
        assert answer["code"] in ("no_handler", "worker_lost"), answer
        return None
    return answer


def test_a_client_moves_between_joined_servers_with_all_that_it_has():
    nats = NatsServer()
    first, second, third = servers = [JoinedServer(nats) for _ in range(3)]
    heard = []
    try:
        with (
            FrameworkClient("bench", hosts=at(first, second), reconnect=QUICK) as moves,
            FrameworkClient("bench", hosts=at(third)) as stays,
        ):
            moves.subscribe("news", lambda message: heard.append(message.payload))
            moves.serve("mine", lambda message: message.payload)

            def goes_on(server, number):
                (address,) = at(server)
                eventually("the next server", lambda: moves.get_connection_info()["address"] == address)
                eventually("an answer", lambda: asked(stays, [number]) == [number])
                been = len(heard)

                def told():
                    stays.publish("news", "trial")
                    return len(heard) > been

                eventually("a publication", told)
                stays.publish("news", number)
                eventually("it came", lambda: heard[-1] == number)
                assert heard.count(number) == 1

            goes_on(first, 1)
            first.kill()
            goes_on(second, 2)
            first = JoinedServer(nats, port=first.port)
            servers.append(first)
            # A drain is the end of a connection, too.
            second.stop()
            goes_on(first, 3)
    finally:
        for server in servers:
            server.kill()
        nats.kill()
