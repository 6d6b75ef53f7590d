"""`ipc-monitor [sim]`: reports the machine's load to the application `monitoring`, and shows its alerts."""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Any, Dict, List, Optional

from .. import FrameworkClient, Message
from ..exceptions import IPCError
from ._options import ask, connected, endpoint, interact, parser


def system_metrics() -> Dict[str, float]:
    """Returns the machine's metrics, or random ones without psutil."""
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return {
            "cpu_usage": random.uniform(10, 95),
            "memory_usage": random.uniform(30, 80),
            "disk_usage": random.uniform(40, 70),
            "load_average": random.uniform(5, 50),
        }
    return {
        "cpu_usage": psutil.cpu_percent(interval=1),
        "memory_usage": psutil.virtual_memory().percent,
        "disk_usage": psutil.disk_usage("/").percent,
        "load_average": psutil.getloadavg()[0] * 100,
    }


class MonitoringClient:
    def __init__(self, name: str, client: FrameworkClient) -> None:
        self.name = name
        self.client = client
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def connect(self) -> bool:
        if not connected(self.client):
            return False
        print(f"Monitoring client '{self.name}' connected")
        self.client.subscribe("alerts", self.show_alert)
        return True

    def show_alert(self, message: Message) -> None:
        alert: Dict[str, Any] = message.payload
        if alert.get("type") != "high_cpu_alert":
            return
        severity = str(alert.get("severity", "info")).upper()
        print(
            f"\n🚨 ALERT [{severity}]: {alert['type']}\n"
            f"   Metric: {alert.get('metric', 'unknown')}\n"
            f"   Current: {alert.get('value', 0)}%\n"
            f"   Threshold: {alert.get('threshold', 0)}%\n"
            f"   Time: {time.strftime('%H:%M:%S')}"
        )

    def send_metric(self, metric: str, value: float) -> None:
        report = {"metric": metric, "value": value, "client": self.name, "timestamp": time.time()}
        self.client.notify("metrics", report)

    def start(self, interval: float = 5.0) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._report, args=(interval,), daemon=True)
        self._thread.start()
        print(f"Started monitoring with {interval:g}s interval")

    def _report(self, interval: float) -> None:
        while not self._stop.is_set():
            try:
                for metric, value in system_metrics().items():
                    self.send_metric(metric, value)
                    print(f"[{self.name}] {metric}: {value:.1f}%")
                print(f"[{self.name}] Metrics sent at {time.strftime('%H:%M:%S')}")
            except IPCError as error:
                print(f"Error in monitoring loop: {error}")
            self._stop.wait(interval)

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
            self._thread = None
            print("Monitoring stopped")

    @property
    def running(self) -> bool:
        return self._thread is not None

    def disconnect(self) -> None:
        self.stop()
        self.client.disconnect()
        print(f"Monitoring client '{self.name}' disconnected")


def simulate(clients: List[MonitoringClient], seconds: float) -> None:
    clients = [client for client in clients if client.connect()]
    if not clients:
        sys.exit(1)
    for client in clients:
        client.start(interval=random.uniform(3, 7))
    print(f"\n=== Started monitoring {len(clients)} systems ===")
    print(f"Monitoring will run for {seconds:g} seconds...")
    print("Watch for alerts when CPU usage exceeds 80%")
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        print("\nStopping simulation...")
    for client in clients:
        client.disconnect()
    print("\n=== Monitoring simulation completed ===")


def obey(client: MonitoringClient, command: str, words: List[str]) -> bool:
    if command == "start" and client.running:
        print("Monitoring is already running. Use 'stop' first.")
    elif command == "start":
        client.start(float(words[0]) if words else 5.0)
    elif command == "stop" and client.running:
        client.stop()
    elif command == "stop":
        print("Monitoring is not running")
    elif command == "metric" and len(words) == 2:
        client.send_metric(words[0], float(words[1]))
        print(f"Custom metric sent: {words[0]} = {float(words[1])}")
    elif command == "status":
        print("Current system metrics:")
        for metric, value in system_metrics().items():
            print(f"  {metric}: {value:.1f}%")
    else:
        return False
    return True


def interact_with(client: MonitoringClient) -> None:
    commands = [
        ("start [interval]", "Start automatic monitoring (default 5s)"),
        ("stop", "Stop automatic monitoring"),
        ("metric <name> <val>", "Send custom metric"),
        ("status", "Show current system metrics"),
    ]
    interact(client, "Monitoring Client", commands, lambda command, words: obey(client, command, words))


def main(arguments: Optional[List[str]] = None) -> None:
    made = parser("ipc-monitor", "Reports the machine's load, which is made up where psutil is missing.")
    made.add_argument("mode", nargs="?", choices=["sim"], help="three clients do it by themselves")
    made.add_argument("--seconds", type=float, default=30.0, help="how long `sim` runs (default: %(default)s)")
    options = made.parse_args(arguments)

    def client(name: str) -> MonitoringClient:
        return MonitoringClient(name, FrameworkClient("monitoring", **endpoint(options)))

    if options.mode == "sim":
        simulate([client(name) for name in ("web-server-1", "db-server", "api-gateway")], options.seconds)
    else:
        interact_with(client(ask("Enter monitoring client name: ") or "MonitoringClient"))


if __name__ == "__main__":
    main()
