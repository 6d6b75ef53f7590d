"""Everything the published client can ask, and the `system` channel's answers."""

import concurrent.futures
import json
import threading
import time

from ipc_framework import MessageType

from payloads import PAYLOADS, same
from processes import STEP_SECONDS_MAX
from server import InteropTest, send_async


class Requests(InteropTest):
    """Channel `echo` of the demo's application `bench` answers with the request's own payload."""

    def test_send_request(self):
        client = self.client("bench")
        answer = client.send_request("echo", {"number": 1}, timeout=STEP_SECONDS_MAX)
        self.assertEqual(answer.payload, {"number": 1})
        self.assertIs(answer.message_type, MessageType.RESPONSE)
        self.assertEqual((answer.app_id, answer.channel_id), ("bench", "echo"))
        self.assertEqual(client.pending_responses, {})

    def test_request_returns_the_id_that_the_answer_bears(self):
        client = self.client("bench")
        message_id = client.request("echo", "payload")
        self.fence(client)
        answer = client.pending_responses.pop(message_id)
        self.assertEqual(answer.reply_to, message_id)
        self.assertNotEqual(answer.message_id, message_id)
        self.assertEqual(answer.payload, "payload")

    def test_payloads_of_every_kind(self):
        client = self.client("bench")
        for name, payload in PAYLOADS.items():
            with self.subTest(name):
                answer = self.ask(client, "echo", payload)
                self.assertTrue(same(answer, payload), f"{answer!r} is not {payload!r}")

    def test_a_request_that_nobody_handles_is_refused(self):
        client = self.client()
        message_id = client.request("nothing here", {})
        self.fence(client)
        answer = client.pending_responses.pop(message_id)
        self.assert_refused(answer.payload, "no_handler")
        self.assertIs(answer.message_type, MessageType.RESPONSE)
        self.assertEqual((answer.channel_id, answer.reply_to), ("nothing here", message_id))

    def test_the_handler_belongs_to_its_application(self):
        self.assert_refused(self.ask(self.client(), "echo", {}), "no_handler")

    def test_send_request_async(self):
        client, answers, answered = self.client("bench"), [], threading.Event()

        def callback(message):
            answers.append(message)
            answered.set()

        message_id = send_async(client, "echo", [1, 2, 3], callback)
        self.assertTrue(answered.wait(STEP_SECONDS_MAX), "the callback was not called")
        self.fence(client)
        (answer,) = answers
        self.assertEqual((answer.reply_to, answer.payload), (message_id, [1, 2, 3]))
        self.assertEqual((client.response_handlers, client.pending_responses), ({}, {}))

    def test_a_callback_that_raises_harms_nobody(self):
        client, called = self.client("bench"), []

        def callback(message):
            called.append(message.payload)
            raise ValueError("the callback's own fault")

        send_async(client, "echo", 1, callback)
        self.fence(client)
        self.assertEqual(called, [1])

    def test_answers_come_in_the_order_of_the_requests(self):
        client, answers = self.client("bench"), []
        for number in range(500):
            send_async(client, "echo", number, lambda message: answers.append(message.payload))
        self.fence(client)
        self.assertEqual(answers, list(range(500)))

    def test_a_megabyte_there_and_back(self):
        client, text = self.client("bench"), "x" * 1_000_000
        self.assertTrue(self.ask(client, "echo", {"text": text}) == {"text": text})

    def test_a_thousand_requests_from_threads_that_share_a_client(self):
        client = self.client("bench")

        def ask(number):
            # The sizes differ, so that mixed-up frames could not be parsed.
            payload = {"number": number, "filler": "x" * (number * 7 % 3000)}
            return same(self.ask(client, "echo", payload), payload)

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            self.assertEqual(sum(pool.map(ask, range(1000))), 1000)
        self.assertEqual(client.pending_responses, {})

    def test_many_clients(self):
        clients = [self.client("bench") for _ in range(60)]
        seen = [[] for _ in clients]
        for client, messages in zip(clients, seen):
            client.subscribe("news", messages.append)
        self.fence(*clients)
        with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
            answers = list(pool.map(lambda client: self.ask(client, "echo", client.connection_id), clients))
        self.assertEqual(answers, [client.connection_id for client in clients])
        clients[0].publish("news", "to everybody")
        self.fence(*clients)
        for messages in seen:
            self.assertEqual([message.payload for message in messages], ["to everybody"])


class SystemChannel(InteropTest):
    """If the published server has a method of the same name, the answer has the shape of that method's result."""

    def test_ping(self):
        self.assertEqual(self.system(self.client(), "ping"), {"status": "pong"})

    def test_get_time_is_in_seconds(self):
        client, before = self.client(), time.time()
        timestamp = self.system(client, "get_time")["timestamp"]
        # A second of tolerance either way, because the clock may be set while the test runs.
        self.assertTrue(before - 1 <= timestamp <= time.time() + 1, timestamp)

    def test_health_check(self):
        self.assertEqual(self.system(self.client(), "health_check")["status"], "healthy")

    def test_get_stats(self):
        clients = [self.client() for _ in range(3)]
        stats = self.system(clients[0], "get_stats")
        self.assertIs(stats["running"], True)
        self.assertIsInstance(stats["host"], str)
        self.assertEqual(stats["port"], self.server.port)
        self.assertGreaterEqual(stats["total_applications"], 1)
        self.assertGreaterEqual(stats["max_connections"], stats["total_connections"])
        # Connections of earlier tests may still be closing.
        self.eventually(
            "three connections are counted",
            lambda: self.system(clients[0], "get_stats")["total_connections"] == 3,
        )

    def test_list_applications(self):
        client, other = self.client(), self.client()
        client.subscribe("news", lambda message: None)
        listed = self.system(client, "list_applications")
        application = listed[self.id()]
        self.assertEqual(application["name"], self.id())
        self.assertIn("news", application["channels"])
        self.assertEqual(application["connections"], 2)
        self.assertTrue(0 < application["created_at"] <= application["last_activity"])
        for connection_id in (client.connection_id, other.connection_id):
            self.assertNotIn(connection_id, json.dumps(listed))

    def test_list_channels(self):
        client, other = self.client(), self.client()
        client.subscribe("news", lambda message: None)
        client.subscribe("weather", lambda message: None)
        other.subscribe("news", lambda message: None)
        self.fence(client, other)
        listed = self.system(client, "list_channels")
        self.assertEqual(listed["news"]["subscribers"], 2)
        self.assertEqual(listed["weather"]["subscribers"], 1)
        self.assertGreater(listed["news"]["created_at"], 0)
        for connection_id in (client.connection_id, other.connection_id):
            self.assertNotIn(connection_id, json.dumps(listed))
        client.unsubscribe("news")
        self.assertEqual(self.system(client, "list_channels")["news"]["subscribers"], 1)

    def test_get_latency_names_the_channels_it_measured(self):
        client = self.client("bench")
        for number in range(20):
            self.ask(client, "echo", number)
        self.assertIn('"echo"', json.dumps(self.system(client, "get_latency")))

    def test_list_services_without_a_worker(self):
        services = self.system(self.client(), "list_services")["services"]
        self.assertIsInstance(services, list)
        for service in services:
            self.assertLessEqual({"name", "healthy", "workers"}, set(service))

    def test_an_unknown_action_is_refused(self):
        self.assert_refused(self.system(self.client(), "no such action"), "no_handler")
