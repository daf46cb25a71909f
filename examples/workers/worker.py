#!/usr/bin/env python3
"""Takes orders from orderly and processes them. Python 3.9, nothing to install.

    ORDERLY_URL=http://127.0.0.1:5000 ORDERLY_API_KEY=... ./worker.py

The server is started with ORDERLY_PROCESSOR=pull. Put your own step where `handle` is.
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
# Orders processed at once.
THREADS = int(os.environ.get("WORKER_THREADS", "4"))
# How long an order is ours unless we renew, and so how soon others have it when this process dies.
LEASE_SECONDS = int(os.environ.get("WORKER_LEASE_SECONDS", "30"))
# How long running orders may go on after SIGTERM, before they are given back.
GRACE_SECONDS = float(os.environ.get("WORKER_GRACE_SECONDS", "10"))
# How long the step below pretends to work.
WORK_SECONDS = float(os.environ.get("WORK_SECONDS", "0.1"))
WAIT_SECONDS = 20
PAUSE_SECONDS_MAX = 10

stopping = threading.Event()
refused = threading.Event()  # the server gives us no orders at all
held = {}  # leases by order
asking = set()  # connections on which we wait for an order


class Refused(Exception):
    """The order will not do better at another attempt."""


class Lost(Exception):
    """The order was cancelled or is another worker's by now, or this process stops; the text says so."""


def handle(order, idempotency_key, attempt):
    """The business step. It runs at least once: what it does elsewhere goes under the key, which all attempts share."""
    metadata = order["metadata"] or {}
    if metadata.get("refuse"):
        raise Refused("the card was declined")
    if attempt <= metadata.get("unlucky", 0):
        raise RuntimeError("the warehouse did not answer")
    time.sleep(WORK_SECONDS)
    return {"shipped": order["item_ids"], "key": idempotency_key}


def post(path, body, seconds=10):
    """Asks until there is an answer, ever more slowly while the server is away; not again when this process stops."""
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
        print(f"{reason}; trying again", file=sys.stderr)
        pause = min(pause * 2, PAUSE_SECONDS_MAX)


def about(lease, action, body):
    return post(f"/leases/{lease['order']['order_id']}/{action}", {"token": lease["token"], **body})


def keep(lease, ended):
    """Renews while the step runs; one that was lost is not renewed, and its result will be refused."""
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
    except Exception as error:  # whatever it was, another attempt may do better
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
                print(f"no order to be had: {error}", file=sys.stderr)
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
    """The server notices, and gives no order to who is gone; one that is on its way is still read, and given back."""
    for connection in list(asking):
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except (AttributeError, OSError):
            pass  # not connected yet, or not any more


def main():
    # Blocked in all threads, and waited for here: a handler could come while this thread holds a lock it needs.
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
            print(f"{order_id} could not be given back: {error}", file=sys.stderr)
    # What still runs ends with the process.
    sys.exit(1 if refused.is_set() else 0)


if __name__ == "__main__":
    main()
