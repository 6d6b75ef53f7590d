"""An unmodified published client as a worker: it serves the requests of a channel, as PROTOCOL.md describes."""

import concurrent.futures
import sys
import time

from ipc_framework import Message, MessageType

from payloads import PAYLOADS, same
from processes import STEP_SECONDS_MAX, Process
from server import InteropTest, cut

# A worker that takes requests and never answers, as a process that can be killed.
SILENT_WORKER = """
import sys, time
from ipc_framework import FrameworkClient
app, port = sys.argv[1], int(sys.argv[2])
client = FrameworkClient(app, port=port)
assert client.connect()
client.create_channel_handler("square", lambda message: print("took", message.payload))
print("worker:", client.send_request("system", {"action": "serve", "channel": "square"}, timeout=30).payload)
while client.connected:
    time.sleep(0.05)
"""


class Serving(InteropTest):
    def worker(self, channel: str, handler, app: str = ""):
        """A client that serves `channel`; `handler(worker, message)` runs on the client's receive thread."""
        worker = self.client(app)
        worker.create_channel_handler(channel, lambda message: handler(worker, message))
        answer = self.system(worker, "serve", channel=channel)
        self.assertEqual(answer, {"status": "serving", "channel": channel})
        return worker

    def holder(self, channel: str):
        """A worker that keeps what it is sent, for the test to answer when it likes."""
        held = []
        return self.worker(channel, lambda worker, message: held.append(message)), held

    def answer_to(self, client, message_id: str):
        """The payload of an answer to a request that `request` sent."""
        self.eventually("the request is answered", lambda: message_id in client.pending_responses)
        return client.pending_responses.pop(message_id).payload

    def services(self, client, channel: str):
        services = self.system(client, "list_services")["services"]
        return [service for service in services if service["name"] == channel]

    def test_requests_are_answered(self):
        seen = []

        def handler(worker, message):
            seen.append(message)
            square(worker, message)

        self.worker("square", handler)
        requester = self.client()
        message_id = requester.request("square", {"number": 12})
        self.assertEqual(self.answer_to(requester, message_id), {"square": 144})
        (message,) = seen
        self.assertIs(message.message_type, MessageType.REQUEST)
        self.assertEqual((message.app_id, message.channel_id), (self.id(), "square"))
        self.assertEqual(message.payload, {"number": 12})
        self.assertIsNone(message.reply_to)
        # The worker answers under an id of the server's, so that no two requesters can have the same.
        self.assertNotIn(message.message_id, ("", message_id))

    def test_a_worker_asks_itself(self):
        worker = self.worker("square", square)
        self.assertEqual(self.ask(worker, "square", {"number": 3}), {"square": 9})

    def test_payloads_of_every_kind(self):
        self.worker("echo", lambda worker, message: reply(worker, message, message.payload))
        requester = self.client()
        for name, payload in PAYLOADS.items():
            with self.subTest(name):
                answer = self.ask(requester, "echo", payload)
                self.assertTrue(same(answer, payload), f"{answer!r} is not {payload!r}")

    def test_a_megabyte_there_and_back(self):
        self.worker("echo", lambda worker, message: reply(worker, message, message.payload))
        text = "x" * 1_000_000
        self.assertTrue(self.ask(self.client(), "echo", {"text": text}) == {"text": text})

    def test_many_requesters_get_their_own_answers(self):
        self.worker("square", square)
        requesters = [self.client() for _ in range(5)]

        def ask(number):
            answer = self.ask(requesters[number % len(requesters)], "square", {"number": number})
            return answer == {"square": number * number}

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            self.assertEqual(sum(pool.map(ask, range(400))), 400)
        for requester in requesters:
            self.assertEqual(requester.pending_responses, {})

    def test_requesters_with_the_same_message_id_get_their_own_answers(self):
        worker, held = self.holder("square")
        requesters = [self.client() for _ in range(3)]
        for number, requester in enumerate(requesters):
            message = Message("the same", self.id(), "square", MessageType.REQUEST, number, time.time())
            self.assertEqual(requester._send_message(message), "the same")
        self.eventually("the worker has all of them", lambda: len(held) == 3)
        self.assertEqual(len({message.message_id for message in held}), 3)
        for message in reversed(held):
            reply(worker, message, message.payload)
        for number, requester in enumerate(requesters):
            self.assertEqual(self.answer_to(requester, "the same"), number)

    def test_only_the_worker_that_holds_a_request_can_answer_it(self):
        worker, held = self.holder("square")
        other = self.worker("cube", lambda worker, message: None)
        requester = self.client()
        message_id = requester.request("square", {})
        self.eventually("the worker has it", lambda: held)
        reply(other, held[0], "forged by another worker")
        reply(requester, held[0], "forged by the requester")
        self.fence(other, requester)
        reply(worker, held[0], "genuine")
        reply(worker, held[0], "a second answer")
        self.assertEqual(self.answer_to(requester, message_id), "genuine")
        self.fence(worker, requester)
        self.assertEqual(requester.pending_responses, {})

    def test_send_request_gives_up_and_the_answer_comes_late(self):
        worker, held = self.holder("square")
        requester = self.client()
        self.assertIsNone(requester.send_request("square", {}, timeout=0.2))
        self.eventually("the worker has it", lambda: held)
        reply(worker, held[0], "late")
        self.eventually("the late answer", lambda: requester.pending_responses)
        ((_, answer),) = requester.pending_responses.items()
        self.assertEqual(answer.payload, "late")

    def test_a_killed_worker_hands_its_requests_back(self):
        process = Process(sys.executable, "-c", SILENT_WORKER, self.id(), self.server.port)
        self.addCleanup(process.kill)
        process.expect("worker: {'status': 'serving', 'channel': 'square'}")
        requester = self.client()
        ids = [requester.request("square", number) for number in range(3)]
        process.expect(r"took \d", count=3)
        self.fence(requester)
        self.assertEqual(requester.pending_responses, {})
        process.kill()
        for message_id in ids:
            self.assert_refused(self.answer_to(requester, message_id), "worker_lost")
        self.assert_refused(self.ask(requester, "square", 1), "no_handler")

    def test_a_worker_that_disconnects_hands_its_requests_back(self):
        worker, held = self.holder("square")
        requester = self.client()
        first = requester.request("square", {})
        self.eventually("the worker has it", lambda: held)
        worker.disconnect()
        # The kernel ends a connection that was only disconnected when the next bytes reach it, see `cut`, or when the
        # client's own thread has left its last call on it. Then nobody serves the second request.
        second = requester.request("square", {})
        self.assert_refused(self.answer_to(requester, first), "worker_lost")
        answer = self.answer_to(requester, second)
        self.assert_refused(answer, "no_handler" if answer["code"] == "no_handler" else "worker_lost")
        self.eventually("the service is gone", lambda: not self.workers(requester, "square"))
        self.assert_refused(self.ask(requester, "square", {}), "no_handler")

    def test_a_lost_worker_leaves_the_others_their_requests(self):
        (lost, lost_held), (staying, held) = self.holder("square"), self.holder("square")
        requester = self.client()
        ids = [requester.request("square", number) for number in range(4)]
        self.eventually("two each", lambda: len(lost_held) == len(held) == 2)
        cut(lost)
        for message in lost_held:
            self.assert_refused(self.answer_to(requester, ids[message.payload]), "worker_lost")
        for message in held:
            reply(staying, message, "served")
            self.assertEqual(self.answer_to(requester, ids[message.payload]), "served")

    def test_workers_share_the_load(self):
        workers = [self.holder("square") for _ in range(2)]
        requester = self.client()
        ids = [requester.request("square", number) for number in range(10)]
        self.eventually("all are forwarded", lambda: sum(len(held) for _, held in workers) == 10)
        # Each request goes to the worker with the fewest in flight, and none is answered yet.
        self.assertEqual([len(held) for _, held in workers], [5, 5])
        busy, idle = workers
        for message in list(idle[1]):
            reply(idle[0], message, message.payload)
            self.assertEqual(self.answer_to(requester, ids[message.payload]), message.payload)
        ids += [requester.request("square", number) for number in range(10, 15)]
        self.eventually("the idle one has the next five", lambda: len(idle[1]) == 10)
        self.assertEqual(len(busy[1]), 5)

    def test_serving_twice_is_one_worker(self):
        worker = self.worker("square", square)
        again = self.system(worker, "serve", channel="square")
        self.assertEqual(again, {"status": "serving", "channel": "square"})
        self.assertEqual(self.workers(worker, "square"), 1)
        self.assertEqual(self.ask(worker, "square", {"number": 2}), {"square": 4})

    def test_stop_serving(self):
        worker = self.worker("square", square)
        requester = self.client()
        self.assertEqual(self.ask(requester, "square", {"number": 2}), {"square": 4})
        stopped = self.system(worker, "stop_serving", channel="square")
        self.assertNotEqual(stopped.get("status"), "error", stopped)
        self.assert_refused(self.ask(requester, "square", {"number": 2}), "no_handler")
        self.assertEqual(self.system(worker, "serve", channel="square")["status"], "serving")
        self.assertEqual(self.ask(requester, "square", {"number": 2}), {"square": 4})

    def test_notifications_reach_the_worker(self):
        worker, held = self.holder("log")
        sender = self.client()
        sender.notify("log", {"line": "żółw"})
        self.fence(sender, worker)
        (message,) = held
        self.assertIs(message.message_type, MessageType.NOTIFICATION)
        self.assertEqual((message.channel_id, message.payload), ("log", {"line": "żółw"}))
        self.assertEqual(sender.pending_responses, {})

    def test_publications_are_not_for_the_worker(self):
        worker, held = self.holder("news")
        sender = self.client()
        sender.publish("news", 1)
        self.fence(sender, worker)
        self.assertEqual(held, [])

    def test_list_services(self):
        requester = self.client()
        self.assertEqual(self.services(requester, "square"), [])
        first, second = self.worker("square", square), self.worker("square", square)
        (service,) = self.services(requester, "square")
        self.assertIs(service["healthy"], True)
        self.assertEqual(service["workers"], 2)
        cut(first)
        self.eventually("one worker is left", lambda: self.workers(requester, "square") == 1)
        self.system(second, "stop_serving", channel="square")
        self.assertEqual(self.workers(requester, "square"), 0)

    def workers(self, client, channel: str) -> int:
        """Returns the number of workers of a service. A service without workers may be missing from the list."""
        return sum(service["workers"] for service in self.services(client, channel))

    def test_a_worker_serves_its_own_application_only(self):
        seen = []
        worker = self.worker("square", lambda worker, message: seen.append(message), app="another application")
        requester = self.client()
        requester.notify("square", {})
        self.assert_refused(self.ask(requester, "square", {}), "no_handler")
        self.fence(worker)
        self.assertEqual(seen, [])

    def test_a_worker_does_not_come_before_the_servers_own_handler(self):
        seen = []
        worker = self.client("bench")
        worker.create_channel_handler("echo", seen.append)
        # Refused or without effect: in either case the demo's handler goes on serving.
        worker.send_request("system", {"action": "serve", "channel": "echo"}, timeout=STEP_SECONDS_MAX)
        self.assertEqual(self.ask(self.client("bench"), "echo", "payload"), "payload")
        self.fence(worker)
        self.assertEqual(seen, [])


def reply(worker, message, result):
    worker.send_message(message.channel_id, MessageType.RESPONSE, result, reply_to=message.message_id)


def square(worker, message):
    reply(worker, message, {"square": message.payload["number"] ** 2})
