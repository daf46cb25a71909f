#!/usr/bin/env python3
"""External worker: pulls orders from orderly and processes them. Python 3.9, no dependencies.

    ORDERLY_URL=http://127.0.0.1:5000 ORDERLY_API_KEY=... ./worker.py

Start the server with ORDERLY_PROCESSOR=pull, and put your own step in `handle`.
"""

import http.client
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import urllib.parse

URL = urllib.parse.urlsplit(os.environ.get("ORDERLY_URL", "http://127.0.0.1:5000"))
HEADERS = {"Content-Type": "application/json"}
if os.environ.get("ORDERLY_API_KEY"):
    HEADERS["Authorization"] = "Bearer " + os.environ["ORDERLY_API_KEY"]
# Number of orders processed at once.
THREADS = int(os.environ.get("WORKER_THREADS", "4"))
# Duration of a lease without renewal, after which others get the order if this process dies.
LEASE_SECONDS = int(os.environ.get("WORKER_LEASE_SECONDS", "30"))
# Time that running orders have to finish after SIGTERM, before they are given back.
GRACE_SECONDS = float(os.environ.get("WORKER_GRACE_SECONDS", "10"))
# Simulated duration of the step below.
WORK_SECONDS = float(os.environ.get("WORK_SECONDS", "0.1"))
WAIT_SECONDS = 20
PAUSE_SECONDS_MAX = 10

stopping = threading.Event()
refused = threading.Event()  # set when the server refuses lease requests
held = {}  # leases by order
asking = set()  # connections of waiting lease requests


class Refused(Exception):
    """Another attempt at the order cannot succeed."""


class Lost(Exception):
    """The order was cancelled or leased to another worker, or this process stops; the text says which."""


def handle(order, idempotency_key, attempt):
    """The business step. It runs at least once: give external effects the key, which all attempts share."""
    metadata = order["metadata"] or {}
    if metadata.get("refuse"):
        raise Refused("the card was declined")
    if attempt <= metadata.get("unlucky", 0):
        raise RuntimeError("the warehouse did not answer")
    time.sleep(WORK_SECONDS)
    return {"shipped": order["item_ids"], "key": idempotency_key}


def post(path, body, seconds=10):
    """Repeats a request until it is answered, with growing pauses while the server is away; gives up when this process stops."""
    kind = http.client.HTTPSConnection if URL.scheme == "https" else http.client.HTTPConnection
    pause = 0.1
    while True:
        connection = kind(URL.hostname, URL.port, timeout=seconds)
        if path == "/leases":
            asking.add(connection)
        try:
            connection.request("POST", path, json.dumps(body), HEADERS)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200:
                return json.loads(text)
            reason = f"{answer.status} {text.decode(errors='replace')}"
            if answer.status < 500 and answer.status not in (408, 429):
                raise Lost(reason)
            pause = max(pause, float(answer.headers.get("Retry-After", 0)))
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error)
        finally:
            asking.discard(connection)
            connection.close()
        if stopping.wait(pause * random.uniform(0.5, 1)):
            raise Lost("stopping: " + reason)
        print(f"{reason}; retrying", file=sys.stderr)
        pause = min(pause * 2, PAUSE_SECONDS_MAX)


def about(lease, action, body):
    return post(f"/leases/{lease['order']['order_id']}/{action}", {"token": lease["token"], **body})


def keep(lease, ended):
    """Renews the lease while the step runs; once lost, it is not renewed and its result will be refused."""
    while not ended.wait(LEASE_SECONDS / 3):
        try:
            about(lease, "renew", {"lease": LEASE_SECONDS})
        except Lost:
            return


def attempt(lease):
    order, ended = lease["order"], threading.Event()
    threading.Thread(target=keep, args=(lease, ended), daemon=True).start()
    try:
        result = handle(order, lease["idempotency_key"], lease["attempt"])
        return "complete", {"result": result}
    except Refused as error:
        return "fail", {"error": str(error) or "refused", "permanent": True}
    except Exception as error:  # any error: another attempt may succeed
        return "fail", {"error": f"{type(error).__name__}: {error}"[:200]}
    finally:
        ended.set()


def work():
    while not stopping.is_set():
        try:
            asked = {"max": 1, "wait": WAIT_SECONDS, "lease": LEASE_SECONDS}
            leases = post("/leases", asked, WAIT_SECONDS + 10)["leases"]
        except Lost as error:
            if not stopping.is_set():
                print(f"cannot get an order: {error}", file=sys.stderr)
                refused.set()
                os.kill(os.getpid(), signal.SIGTERM)
            return
        for lease in leases:
            order_id = lease["order"]["order_id"]
            held[order_id] = lease
            action, body = ("release", {}) if stopping.is_set() else attempt(lease)
            try:
                order = about(lease, action, body)
                print(order_id, order["status"], "fence", lease["fence"], flush=True)
            except Lost as error:
                print(f"{order_id}: {action} was refused: {error}", file=sys.stderr)
            held.pop(order_id, None)


def hang_up():
    """Closes waiting requests. The server then grants them nothing; an answer on its way is read and its order given back."""
    for connection in list(asking):
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except (AttributeError, OSError):
            pass  # not connected yet, or already closed


def main():
    # Blocked in all threads and awaited here: a handler could interrupt this thread while it holds a lock.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for _ in range(THREADS):
        threading.Thread(target=work, daemon=True).start()
    signal.sigwait(signals)
    stopping.set()
    hang_up()
    deadline = time.monotonic() + GRACE_SECONDS
    while (held or asking) and time.monotonic() < deadline:
        time.sleep(0.05)
    for order_id, lease in list(held.items()):
        try:
            about(lease, "release", {})
            print(order_id, "given back", flush=True)
        except Lost as error:
            print(f"cannot give back {order_id}: {error}", file=sys.stderr)
    # Running steps end with the process.
    sys.exit(1 if refused.is_set() else 0)


if __name__ == "__main__":
    main()
