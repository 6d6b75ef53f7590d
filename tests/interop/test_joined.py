"""Unmodified published clients at two servers that NATS joins: neither side notices that there are two."""

import json

from ipc_framework import FrameworkClient, MessageType

from payloads import PAYLOADS, same
from processes import JoinedServer, NatsServer
from server import InteropTest, cut

TRIAL = "can you hear me"


class Joined(InteropTest):
    @classmethod
    def setUpClass(cls):
        cls.nats = NatsServer()
        cls.addClassCleanup(cls.nats.kill)
        cls.servers = []
        for _ in range(2):
            cls.servers.append(JoinedServer(cls.nats))
            cls.addClassCleanup(cls.servers[-1].stop)
        # What `InteropTest` shows when a test fails.
        cls.server = cls.servers[0]

    def at(self, server: int, app: str = "") -> FrameworkClient:
        client = FrameworkClient(app or self.id(), port=self.servers[server].port)
        self.assertIs(client.connect(), True)
        self.addCleanup(cut, client)
        return client

    def worker(self, server: int, channel: str, handler):
        worker = self.at(server)
        worker.create_channel_handler(channel, lambda message: handler(worker, message))
        answer = self.system(worker, "serve", channel=channel)
        self.assertEqual(answer, {"status": "serving", "channel": channel})
        return worker

    def until_served(self, client: FrameworkClient, channel: str, payload=TRIAL):
        """Asks until the worker of the other server is known, and returns the answer."""
        answers = []

        def asked():
            answers[:] = [self.ask(client, channel, payload)]
            return not (isinstance(answers[0], dict) and answers[0].get("code") == "no_handler")

        self.eventually("a worker of the other server", asked)
        return answers[0]

    def heard_at(self, server: int, channel: str, publisher: FrameworkClient):
        """What a subscriber of a server hears, once it hears the publisher."""
        heard = []
        subscriber = self.at(server)
        subscriber.subscribe(channel, lambda message: heard.append(message))
        self.fence(subscriber)

        def told():
            publisher.publish(channel, TRIAL)
            return heard

        self.eventually("a publication of the other server", told)
        return heard

    def both_ways(self):
        return ((0, 1), (1, 0))

    def test_requests_are_answered_by_workers_of_the_other_server(self):
        for here, there in self.both_ways():
            channel, seen = f"echo-{there}", []

            def echo(worker, message, seen=seen):
                seen.append(message)
                worker._send_message(message.create_response(message.payload))

            self.worker(there, channel, echo)
            client = self.at(here)
            self.assertEqual(self.until_served(client, channel), TRIAL)
            for name, payload in PAYLOADS.items():
                with self.subTest(name):
                    answer = self.ask(client, channel, payload)
                    self.assertTrue(same(answer, payload), f"{answer!r} is not {payload!r}")
            message = seen[-1]
            self.assertIs(message.message_type, MessageType.REQUEST)
            self.assertEqual((message.app_id, message.channel_id, message.reply_to), (self.id(), channel, None))
            self.assertEqual(client.pending_responses, {})

    def test_channels_of_the_process_answer_and_nobody_is_told_so_at_once(self):
        self.assertEqual(self.ask(self.at(0, "bench"), "echo", 1), 1)
        client = self.at(0)
        self.assert_refused(self.ask(client, "nobody", 1), "no_handler")

    def test_publications_come_once_and_in_order(self):
        for here, there in self.both_ways():
            channel = f"news-{there}"
            publisher = self.at(here)
            heard = self.heard_at(there, channel, publisher)
            at_home = []
            local = self.at(here)
            local.subscribe(channel, lambda message, at_home=at_home: at_home.append(message.payload))
            self.fence(local)
            for payload in [*PAYLOADS.values(), *range(300)]:
                publisher.publish(channel, payload)
            for got in (lambda: [message.payload for message in heard], lambda at_home=at_home: at_home):
                self.eventually("the last one", lambda got=got: got()[-1:] == [299])
                payloads = got()
                while payloads[0] == TRIAL:
                    payloads = payloads[1:]
                wanted = [*PAYLOADS.values(), *range(300)]
                self.assertEqual(len(payloads), len(wanted))
                for one, other in zip(payloads, wanted):
                    self.assertTrue(same(one, other), f"{one!r} is not {other!r}")
            self.assertEqual((heard[-1].app_id, heard[-1].channel_id), (self.id(), channel))
            self.assertIs(heard[-1].message_type, MessageType.PUBLISH)

    def test_notifications_reach_workers_of_the_other_server(self):
        noted = []

        def take(worker, message):
            if message.message_type is MessageType.NOTIFICATION:
                noted.append(message.payload)
            else:
                worker._send_message(message.create_response("taken"))

        self.worker(1, "notes", take)
        client = self.at(0)
        self.until_served(client, "notes")
        for number in range(100):
            client.notify("notes", {"number": number})
        # The tunnel keeps the order of notifications and requests.
        self.assertEqual(self.ask(client, "notes", "end"), "taken")
        self.assertEqual(noted, [{"number": number} for number in range(100)])

    def test_nothing_comes_from_another_application(self):
        publisher, stranger = self.at(0), self.at(0, "another " + self.id())
        heard = self.heard_at(1, "news", publisher)
        stranger.publish("news", "of another application")
        self.fence(stranger)
        publisher.publish("news", "end")
        self.eventually("the last one", lambda: heard[-1].payload == "end")
        payloads = {json.dumps(message.payload) for message in heard}
        self.assertEqual(payloads, {json.dumps(TRIAL), json.dumps("end")})

    def test_a_killed_server_hands_its_requests_back(self):
        third = JoinedServer(self.nats)
        self.addCleanup(third.kill)
        taken = []
        worker = FrameworkClient(self.id(), port=third.port)
        self.assertIs(worker.connect(), True)
        worker.create_channel_handler("work", taken.append)
        self.system(worker, "serve", channel="work")
        client = self.at(0)

        def given():
            client.request("work", TRIAL)
            return taken

        self.eventually("the worker has one", given)
        message_id = client.request("work", "the last one")
        self.eventually("the worker has it", lambda: taken[-1].payload == "the last one")
        third.kill()
        self.eventually("its answer", lambda: message_id in client.pending_responses)
        self.assert_refused(client.pending_responses.pop(message_id).payload, "worker_lost")
        self.assert_refused(self.ask(client, "work", 1), "no_handler")

