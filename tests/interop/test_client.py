"""The published client's connection, and everything it can send and receive without asking."""

import contextlib
import socket
import threading

import ipc_framework
from ipc_framework import FrameworkClient, Message, MessageType

from payloads import PAYLOADS, same
from server import InteropTest, cut


class Connecting(InteropTest):
    def test_a_new_client_is_not_connected(self):
        client = FrameworkClient("app", port=self.server.port)
        self.assertIs(client.connected, False)
        self.assertIs(client.ping(timeout=0.1), False)
        with self.assertRaises(ipc_framework.ConnectionError):
            client.publish("channel", {})

    def test_connect_and_what_the_client_says_of_it(self):
        client = FrameworkClient("app", "127.0.0.1", self.server.port, connection_timeout=5.0)
        self.addCleanup(cut, client)
        self.assertIs(client.connect(), True)
        self.assertIs(client.connected, True)
        client.subscribe("first", lambda message: None)
        client.create_channel_handler("second", lambda message: None)
        self.assertEqual(
            client.get_connection_info(),
            {
                "app_id": "app",
                "connection_id": client.connection_id,
                "connected": True,
                "host": "127.0.0.1",
                "port": self.server.port,
                "subscribed_channels": ["first", "second"],
            },
        )

    def test_connecting_twice_is_one_connection(self):
        client = self.client()
        connection = client.socket
        self.assertIs(client.connect(), True)
        self.assertIs(client.socket, connection)
        self.assertEqual(self.system(client, "list_applications")[self.id()]["connections"], 1)

    def test_connecting_to_nothing(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound, but not listening: nobody else can take the port
            client = FrameworkClient("app", port=unused.getsockname()[1])
            self.assertIs(client.connect(), False)
        self.assertIs(client.connected, False)
        self.assertIsNone(client.socket)

    def test_ping(self):
        client = self.client()
        self.assertIs(client.ping(), True)
        self.assertIs(client.ping(timeout=30.0), True)

    def test_disconnect(self):
        client, other = self.client(), self.client()
        client.disconnect()
        self.assertIs(client.connected, False)
        self.assertIsNone(client.socket)
        self.assertIs(client.get_connection_info()["connected"], False)
        self.assertIs(client.ping(timeout=0.1), False)
        with self.assertRaises(ipc_framework.ConnectionError):
            client.notify("channel", {})
        client.disconnect()  # a second time does nothing
        self.fence(other)

    def test_the_same_object_connects_again(self):
        # After `disconnect` the old receive thread is still blocked on the old connection. Bytes or a close there wake
        # it up, and it goes on with the new connection's bytes and flags. Many rounds, for that is a race; silent ones
        # too, in which a client has sent nothing but its connect.
        client = self.client()
        for _ in range(6):
            client.disconnect()
            self.assertIs(client.connect(), True)
            self.fence(client)
            self.assert_refused(self.ask(client, "channel", {}), "no_handler")
            self.assertIs(client.connected, True)
        for _ in range(3):
            silent = self.client()
            for _ in range(2):
                silent.disconnect()
                self.assertIs(silent.connect(), True)
            self.fence(silent)

    def test_a_cut_connection_is_made_anew(self):
        client = self.client()
        cut(client)
        self.assertIs(client.connected, False)
        self.assertIs(client.connect(), True)
        self.fence(client)

    def test_a_newer_connection_takes_the_id_over(self):
        older, newer = self.client(), FrameworkClient(self.id(), port=self.server.port)
        told = []
        older.create_channel_handler("system", told.append)
        newer.connection_id = older.connection_id
        self.addCleanup(cut, newer)
        self.assertIs(newer.connect(), True)
        # The client hears it at once or when it next sends something, and is closed.
        ping = ""
        with contextlib.suppress(ipc_framework.ConnectionError):
            ping = older.request("system", {"action": "ping"})
        self.eventually("the older connection is closed", lambda: not older.connected)
        told += filter(None, [older.pending_responses.get(ping)])
        self.assertEqual(len(told), 1)
        self.assert_refused(told[0].payload, "taken_over")
        self.fence(newer)


class Publishing(InteropTest):
    def test_subscribers_receive_the_message_as_it_was_sent(self):
        publisher, other = self.client(), self.client()
        seen = {publisher: [], other: []}
        for client, messages in seen.items():
            self.assertIs(client.subscribe("news", messages.append), True)
        self.fence(publisher, other)
        message_id = publisher.publish("news", {"text": "hello"})
        self.fence(publisher, other)
        for client, messages in seen.items():
            (message,) = messages
            self.assertEqual(message.message_id, message_id)
            self.assertEqual(message.app_id, self.id())
            self.assertEqual(message.channel_id, "news")
            self.assertIs(message.message_type, MessageType.PUBLISH)
            self.assertEqual(message.payload, {"text": "hello"})
            self.assertIsInstance(message.timestamp, float)
            self.assertIsNone(message.reply_to)

    def test_a_publisher_that_did_not_subscribe_receives_nothing(self):
        publisher, messages = self.client(), []
        publisher.create_channel_handler("news", messages.append)
        publisher.publish("news", 1)
        self.fence(publisher)
        self.assertEqual(messages, [])

    def test_payloads_of_every_kind(self):
        publisher, subscriber = self.client(), self.client()
        messages = []
        subscriber.subscribe("news", messages.append)
        self.fence(subscriber)
        for payload in PAYLOADS.values():
            publisher.publish("news", payload)
        self.fence(publisher, subscriber)
        self.assertEqual(len(messages), len(PAYLOADS))
        for (name, payload), message in zip(PAYLOADS.items(), messages):
            with self.subTest(name):
                self.assertTrue(same(message.payload, payload), f"{message.payload!r} is not {payload!r}")

    def test_a_channel_may_have_any_name(self):
        client, messages = self.client(), []
        names = ["a b", "żółw/日本語", "news.*", "'; --", "👩‍👩‍👧", "0"]
        for name in names:
            client.subscribe(name, messages.append)
            client.publish(name, name)
        self.fence(client)
        self.assertEqual([(message.channel_id, message.payload) for message in messages], list(zip(names, names)))

    def test_a_megabyte(self):
        publisher, subscriber = self.client(), self.client()
        messages, text = [], "ż" * 100_000 + "x" * 500_000  # the client escapes: 1.1 MB on the wire
        subscriber.subscribe("news", messages.append)
        self.fence(subscriber)
        publisher.publish("news", {"text": text})
        self.fence(publisher, subscriber)
        (message,) = messages
        self.assertTrue(message.payload == {"text": text})  # assertEqual would print a megabyte

    def test_subscribing_twice_delivers_once(self):
        client, messages = self.client(), []
        client.subscribe("news", messages.append)
        client.subscribe("news", messages.append)
        client.publish("news", 1)
        self.fence(client)
        self.assertEqual(len(messages), 1)

    def test_a_handler_can_come_after_subscribing(self):
        client, messages = self.client(), []
        self.assertIs(client.subscribe("news"), True)
        client.publish("news", "nobody looks")
        self.fence(client)
        client.create_channel_handler("news", messages.append)
        client.publish("news", "seen")
        self.fence(client)
        client.remove_channel_handler("news")
        client.publish("news", "nobody looks any more")
        self.fence(client)
        client.create_channel_handler("news", messages.append)
        client.publish("news", "seen again")
        self.fence(client)
        self.assertEqual([message.payload for message in messages], ["seen", "seen again"])

    def test_after_unsubscribing_nothing_arrives(self):
        client, other = self.client(), self.client()
        messages = []
        client.subscribe("news", messages.append)
        client.subscribe("weather", messages.append)
        client.publish("news", "before")
        self.fence(client)
        self.assertIs(client.unsubscribe("news"), True)
        # The client has dropped its handler as well. A new one would show what the server still sends.
        client.create_channel_handler("news", messages.append)
        self.fence(client)
        other.publish("news", "after")
        client.publish("news", "after")
        other.publish("weather", "still subscribed")
        self.fence(other, client)
        self.assertEqual([message.payload for message in messages], ["before", "still subscribed"])
        client.unsubscribe("never subscribed")
        self.fence(client)

    def test_applications_do_not_hear_each_other(self):
        ours, theirs = self.client(), self.client("another application")
        seen = {ours: [], theirs: []}
        for client, messages in seen.items():
            client.subscribe("news", messages.append)
        self.fence(ours, theirs)
        ours.publish("news", "ours")
        theirs.publish("news", "theirs")
        self.fence(ours, theirs, ours)
        self.assertEqual([message.payload for message in seen[ours]], ["ours"])
        self.assertEqual([message.payload for message in seen[theirs]], ["theirs"])

    def test_nobody_subscribes_for_somebody_else(self):
        client, other, messages = self.client(), self.client(), []
        other.create_channel_handler("news", messages.append)
        message_id = client.send_message("news", MessageType.SUBSCRIBE, {"connection_id": other.connection_id})
        self.fence(client)
        self.assert_refused(client.pending_responses.pop(message_id).payload, "forbidden")
        client.publish("news", 1)
        self.fence(client, other)
        self.assertEqual(messages, [])

    def test_a_subscriber_that_disconnects_is_forgotten(self):
        leaving, staying, publisher = self.client(), self.client(), self.client()
        messages = []
        leaving.subscribe("news", lambda message: None)
        staying.subscribe("news", messages.append)
        self.fence(leaving, staying)
        self.assertEqual(self.system(publisher, "list_channels")["news"]["subscribers"], 2)
        leaving.disconnect()
        # The kernel ends a connection that was only disconnected when the next bytes reach it: see `cut`.
        publisher.publish("news", 0)
        self.eventually(
            "one subscriber is left",
            lambda: self.system(publisher, "list_channels")["news"]["subscribers"] == 1,
        )
        publisher.publish("news", 1)
        self.fence(publisher, staying)
        self.assertEqual([message.payload for message in messages], [0, 1])

    def test_all_subscribers_see_one_order(self):
        publishers, subscribers = [self.client() for _ in range(3)], [self.client() for _ in range(3)]
        seen = [[] for _ in subscribers]
        for client, messages in zip(subscribers, seen):
            client.subscribe("news", messages.append)
        self.fence(*subscribers)

        def publish(index, client):
            for number in range(200):
                client.publish("news", [index, number])

        threads = [threading.Thread(target=publish, args=pair) for pair in enumerate(publishers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.fence(*publishers, *subscribers)
        orders = [[message.payload for message in messages] for messages in seen]
        self.assertEqual(orders[0], orders[1])
        self.assertEqual(orders[0], orders[2])
        for index in range(3):
            numbers = [number for publisher, number in orders[0] if publisher == index]
            self.assertEqual(numbers, list(range(200)))


class Receiving(InteropTest):
    def test_wait_for_message(self):
        client, kept, waited = self.client(), [], []
        client.subscribe("news", kept.append)
        self.fence(client)
        waiting = threading.Thread(target=lambda: waited.append(client.wait_for_message("news", timeout=30.0)))
        original = client.message_handlers["news"]
        waiting.start()
        self.eventually("the wait has begun", lambda: client.message_handlers.get("news") is not original)
        client.publish("news", "awaited")
        waiting.join()
        client.publish("news", "later")
        self.fence(client)
        self.assertEqual([message.payload for message in waited], ["awaited"])
        self.assertEqual([message.payload for message in kept], ["later"])

    def test_waiting_in_vain(self):
        client = self.client()
        self.assertIsNone(client.wait_for_message("news", timeout=0.05))
        self.assertNotIn("news", client.message_handlers)

    def test_handle_message(self):
        client, messages = self.client(), []
        client.create_channel_handler("news", messages.append)
        message = Message("id", self.id(), "news", MessageType.NOTIFICATION, {}, 1.0)
        client.handle_message(message)
        client.handle_message(Message("id", self.id(), "nobody looks", MessageType.NOTIFICATION, {}, 1.0))
        self.assertEqual(messages, [message])

    def test_a_handler_that_raises_is_called_again(self):
        client, messages = self.client(), []

        def handler(message):
            messages.append(message.payload)
            raise ValueError("the handler's own fault")

        client.subscribe("news", handler)
        client.publish("news", 1)
        client.publish("news", 2)
        self.fence(client)
        self.assertEqual(messages, [1, 2])

    def test_a_publication_that_answers(self):
        client, answers = self.client(), []
        client.subscribe("news", answers.append)
        client.send_message("news", MessageType.PUBLISH, "answer", reply_to="an id of the user's own")
        self.fence(client)
        self.assertEqual(answers, [])  # the client files it under the id that it answers
        self.assertEqual(client.pending_responses.pop("an id of the user's own").payload, "answer")

    def test_what_nobody_handles_is_met_with_silence(self):
        client, events = self.client(), []
        for channel in ("system", "nothing here"):
            client.create_channel_handler(channel, events.append)
        ids = [
            client.notify("nothing here", {"of": "no interest"}),
            client.publish("nothing here", None),
            client.send_message("nothing here", MessageType.RESPONSE, {}, reply_to="no such request"),
            client.notify("system", {"action": "heartbeat"}),
        ]
        self.assertEqual(len(set(ids)), 4)
        self.fence(client)
        self.assertEqual(events, [])
        self.assertEqual(client.pending_responses, {})

    def test_python_sends_what_is_not_json_and_is_told(self):
        client, events = self.client(), []
        client.create_channel_handler("system", events.append)
        for value in (float("nan"), float("inf"), float("-inf")):
            client.publish("news", value)
        self.fence(client)  # the connection lives
        self.assertEqual(len(events), 3)
        for event in events:
            self.assertIs(event.message_type, MessageType.RESPONSE)
            self.assertIsNone(event.reply_to)
            self.assert_refused(event.payload, "bad_frame")
