#!/usr/bin/env python3
"""Cost of a two-minute outage of the service: starts a service, places orders at an even rate, stops the service and
starts it again, and reports how often it was called per order and the most concurrent calls afterwards.

    ORDERLY_PROCESSOR=http ORDERLY_PROCESSOR_URL=http://127.0.0.1:8000/ orderly &
    python3 loadtest/outage.py [SECONDS DEAD] [ORDERS PER SECOND]

Python 3.9, no dependencies. Uses only this machine, and ends by itself.
"""

import http.client
import http.server
import json
import sys
import threading
import time

DEAD = float((sys.argv + ["120"])[1]) if len(sys.argv) > 1 else 120.0
RATE = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
BEFORE = AFTER = 10.0
PATIENCE = 300.0


class Calls:
    """Calls of the service, over all its restarts."""

    def __init__(self):
        self.lock = threading.Lock()
        self.times, self.now, self.most = [], 0, 0

    def begin(self):
        with self.lock:
            self.times.append(time.monotonic())
            self.now += 1
            self.most = max(self.most, self.now)

    def end(self):
        with self.lock:
            self.now -= 1


calls = Calls()


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        calls.begin()
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.05)  # an order takes some time
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        calls.end()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256


def start():
    server = Server(("127.0.0.1", 8000), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def stop(server):
    server.shutdown()
    server.server_close()


def ask(method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", 5000, timeout=10)
    connection.request(method, path, body, {"Content-Type": "application/json", "Accept": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


def place(seconds):
    """Places orders at an even rate for `seconds`, and returns their number."""
    began, placed = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        status, _ = ask("POST", "/orders", '{"user_id":104,"item_ids":[101],"total_amount":250.75}')
        assert status == 201, status
        placed += 1
        time.sleep(max(0.0, began + placed / RATE - time.monotonic()))
    return placed


def main():
    service = start()
    orders = place(BEFORE)
    stop(service)
    orders += place(DEAD)
    waiting = ask("GET", "/queue")[1]
    calls.most = 0
    service, back = start(), time.monotonic()
    orders += place(AFTER)
    while True:
        numbers = ask("GET", "/metrics")[1]
        if numbers["completed_orders"] + numbers["failed_orders"] == orders or time.monotonic() - back > PATIENCE:
            break
        time.sleep(0.05)
    drained = time.monotonic() - back
    stop(service)
    per_second = {}
    for at in calls.times:
        if at >= back:
            per_second[int(at - back)] = per_second.get(int(at - back), 0) + 1
    print(f"{orders} orders, {numbers['completed_orders']} completed, {numbers['failed_orders']} failed")
    print(f"at the end of the outage {waiting['pending']} were pending")
    print(f"{len(calls.times)} calls arrived, {len(calls.times) / orders:.3f} for each order")
    print(f"after it: all done in {drained:.1f} s, at most {calls.most} calls at once, calls in each second:")
    print(" ".join(str(per_second.get(second, 0)) for second in range(int(drained) + 1)))
    started = sum(int(line.split()[-1]) for line in metrics() if line.startswith("orderly_attempts_total"))
    print(f"{started} attempts of the server, {started / orders:.3f} for each order")


def metrics():
    connection = http.client.HTTPConnection("127.0.0.1", 5000, timeout=10)
    connection.request("GET", "/metrics/prometheus")
    return connection.getresponse().read().decode().splitlines()


main()
