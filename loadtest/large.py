#!/usr/bin/env python3
"""Cost of a large store: the same requests to a store with many orders and to one with few, in turns.

    python3 loadtest/large.py fill DATABASE_URL ORDERS       fills a store, through a server with instant processing
    python3 loadtest/large.py flat LARGE_URL SMALL_URL       rates and times of both, and their ratios
    python3 loadtest/large.py start DATABASE_URL             time from a server's start until it completes an order, 100,000 open
    python3 loadtest/large.py memory DATABASE_URL            memory and processor use of an idle, busy and filled server
    python3 loadtest/large.py cost DATABASE_URL              the server's processor time per order

DATABASE_URL as in the configuration: sqlite:PATH or postgres://... of a separate database. The stores keep added orders;
`start` leaves its orders completed, `memory` and `cost` need a new store. The server is target/release/orderly, or the program in
$ORDERLY_PROGRAM. Python 3.9, no dependencies. Uses only this machine, and ends the servers that it starts.
"""

import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PROGRAM = os.environ.get("ORDERLY_PROGRAM", "target/release/orderly")
BATCH = 1_000
USERS = 100_000
OPEN = 100_000  # waiting orders when a server starts, and in each round of claiming
OPEN_MOST = 200_000  # maximum while filling
ROUNDS = 5
REQUESTS = 500  # sequential requests of each kind in a round
PAGE_DEEP = 10_000  # of 50 orders each
DEADLINE = 3_600.0
ANSWER_TIME = 60


class Server:
    """A server on its own port."""

    next_port = 5_200

    def __init__(self, database_url, **variables):
        Server.next_port += 1
        self.port = Server.next_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = tempfile.TemporaryDirectory()
        own = ("ORDERLY_", "DATABASE_", "REDIS_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        environment |= {"PORT": str(self.port), "DATABASE_URL": database_url, "ORDERLY_SIMULATED_SPEED": "0",
                        "ORDERLY_LOG_DIR": self.folder.name, "RUST_LOG": "error"} | variables
        self.began = time.monotonic()
        self.process = subprocess.Popen([PROGRAM, "serve"], env=environment, stdout=subprocess.DEVNULL)
        while not self.listens():
            assert self.process.poll() is None, "the server did not start"
            time.sleep(0.005)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end(signal.SIGTERM)
        self.folder.cleanup()

    def end(self, how):
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_TIME)

    def listens(self):
        try:
            return ask(self.connect(), "GET", "/livez") is not None
        except OSError:
            return False

    def numbers(self):
        return ask(self.connect(), "GET", "/metrics")

    def pause(self, paused):
        ask(self.connect(), "POST", "/queue/pause" if paused else "/queue/resume")

    def emptied(self, open_most=0):
        began = time.monotonic()
        while True:
            numbers = self.numbers()
            if numbers["pending_orders"] + numbers["processing_orders"] <= open_most:
                return numbers
            assert time.monotonic() - began < DEADLINE, "the queue does not empty"
            time.sleep(0.01)

    def memory(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            kib = next(line.split()[1] for line in status if line.startswith("VmRSS"))
        return int(kib) / 1024

    def processor_seconds(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(connection, method, path, body=None):
    connection.request(method, path, body, {"Content-Type": "application/json", "Accept": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status < 300, (answer.status, text[:300])
    return json.loads(text)


def batch():
    orders = [{"user_id": random.randint(1, USERS), "item_ids": [101, 102, 103], "total_amount": 250.75}
              for _ in range(BATCH)]
    return json.dumps({"orders": orders})


def add(server, orders):
    """Adds orders through two connections, each reusing its own bodies."""

    def share(count):
        bodies, connection = [batch() for _ in range(50)], server.connect()
        for number in range(count):
            ask(connection, "POST", "/orders/batch", bodies[number % len(bodies)])

    threads = [threading.Thread(target=share, args=(orders // BATCH // 2,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fill(database_url, orders):
    with Server(database_url, ORDERLY_CONCURRENCY="1000") as server:
        goal = int(orders)
        while (there := server.numbers()["total_orders"]) < goal:
            add(server, min(OPEN_MOST, max(goal - there, 2 * BATCH)))
            done = server.emptied()["completed_orders"]
            print(f"{done} of {goal}", end="\r", flush=True)
    print()


def bench(server, load):
    command = [PROGRAM, "bench", load, "--url", server.url, "--rounds", "1", "--duration", "2s", "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return report["loads"][0]["rate"]["median"]


def each(server, path):
    """Returns the median seconds of one request."""
    connection, times = server.connect(), []
    for _ in range(REQUESTS):
        began = time.monotonic()
        ask(connection, "GET", path)
        times.append(time.monotonic() - began)
    return statistics.median(times)


def deep_page(server):
    """Returns the path of page 10,000, or of the last full one."""
    connection, cursor = server.connect(), None
    for _ in range(PAGE_DEEP // 10):
        page = ask(connection, "GET", f"/orders?limit=500&cursor={cursor}" if cursor else "/orders?limit=500")
        if page["next_cursor"] is None or len(page["orders"]) < 500:
            break
        cursor = page["next_cursor"]
    return f"/orders?limit=50&cursor={cursor}"


def claim_and_settle(server):
    server.pause(True)
    server.emptied(OPEN)
    add(server, OPEN)
    before, began = server.numbers()["completed_orders"], time.monotonic()
    server.pause(False)
    done = server.emptied()["completed_orders"] - before
    return done / (time.monotonic() - began)


def accept(server):
    server.pause(True)
    rate = bench(server, "accept")
    server.pause(False)
    server.emptied()
    return rate


def flat(large_url, small_url):
    with Server(large_url) as large, Server(small_url) as small:
        pages = {large: deep_page(large), small: deep_page(small)}
        kinds = {
            "claim and settle, orders/s": (claim_and_settle, max),
            "accept, orders/s": (accept, max),
            "status, reads/s": (lambda server: bench(server, "status"), max),
            "list page, ms": (lambda server: each(server, pages[server]) * 1_000, min),
            "/metrics, ms": (lambda server: each(server, "/metrics") * 1_000, min),
        }
        totals = [server.numbers()["total_orders"] for server in (large, small)]
        print(f"{totals[0]} orders and {totals[1]}, {ROUNDS} rounds; slowdown of the large store")
        for name, (measure, best) in kinds.items():
            rounds = [(measure(large), measure(small)) for _ in range(ROUNDS)]
            worse = [b / a if best is max else a / b for a, b in rounds]
            middle = [statistics.median(column) for column in zip(*rounds)]
            print(f"{name:28} {middle[0]:12.2f} {middle[1]:12.2f}   "
                  f"{min(worse):.2f} / {statistics.median(worse):.2f} / {max(worse):.2f}", flush=True)


def start(database_url):
    for _ in range(ROUNDS):
        with Server(database_url) as server:
            server.pause(True)
            add(server, OPEN)
            before = server.numbers()
            server.pause(False)  # killed at once: the next server gives back the orders in processing
            server.end(signal.SIGKILL)
        with Server(database_url) as server:
            while server.numbers()["completed_orders"] <= before["completed_orders"]:
                time.sleep(0.002)
            took = time.monotonic() - server.began
            print(f"{before['total_orders']} orders, {before['pending_orders']} open: "
                  f"the first completed {took:.2f} s after the start", flush=True)
            server.emptied()


def memory(database_url):
    with Server(database_url) as server:
        time.sleep(5)
        used, began = server.processor_seconds(), time.monotonic()
        time.sleep(20)
        share = (server.processor_seconds() - used) / (time.monotonic() - began)
        print(f"idle: {server.memory():.1f} MiB, {share:.2%} of a core")
        command = [PROGRAM, "bench", "accept", "--url", server.url, "--connections", "256", "--rounds", "1", "--duration", "10s"]
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        most = 0.0
        while load.poll() is None:
            most = max(most, server.memory())
            time.sleep(0.05)
        assert load.returncode == 0
        print(f"under load, 256 connections: {most:.1f} MiB at most")
        server.emptied()
        server.pause(True)
        add(server, 1_000_000)
        print(f"with 1,000,000 orders pending: {server.memory():.1f} MiB right after they came")
        server.end(signal.SIGTERM)
    with Server(database_url) as server:
        print(f"after a restart: {server.memory():.1f} MiB")


def cost(database_url):
    with Server(database_url, ORDERLY_CONCURRENCY="1000") as server:
        server.pause(True)
        used = [server.processor_seconds()]
        add(server, OPEN_MOST)
        used.append(server.processor_seconds())
        server.pause(False)
        server.emptied()
        used.append(server.processor_seconds())
        accepted, settled = ((after - before) * 1e6 / OPEN_MOST for before, after in zip(used, used[1:]))
        print(f"{accepted:.1f} µs to accept an order, {settled:.1f} µs to claim and settle it")


COMMANDS = {"fill": fill, "flat": flat, "start": start, "memory": memory, "cost": cost}

if len(sys.argv) < 3 or sys.argv[1] not in COMMANDS:
    sys.exit(__doc__)
COMMANDS[sys.argv[1]](*sys.argv[2:])
