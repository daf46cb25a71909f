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
import sys
import threading
import time
import urllib.error
import urllib.request

URL = os.environ.get("ORDERLY_URL", "http://127.0.0.1:5000")
KEY = os.environ.get("ORDERLY_API_KEY")
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
held = {}  # leases by order
held_lock = threading.Lock()


class Refused(Exception):
    """The order will not do better at another attempt."""


class Lost(Exception):
    """The order was cancelled, or is another worker's by now."""


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
    """Asks until there is an answer, ever more slowly while the server is away; once only when this process stops."""
    pause = 0.1
    while True:
        request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        if KEY:
            request.add_header("Authorization", "Bearer " + KEY)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.read().decode(errors='replace')}"
            if error.code in (404, 409):
                raise Lost(reason) from None
            if error.code < 500 and error.code not in (408, 429):
                raise RuntimeError(reason) from None
            pause = max(pause, float(error.headers.get("Retry-After", 0)))
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error)
        if stopping.wait(pause * random.uniform(0.5, 1)):
            raise Lost("stopping: " + reason)
        print(f"{reason}; trying again", file=sys.stderr)
        pause = min(pause * 2, PAUSE_SECONDS_MAX)


def about(lease, action, **body):
    return post(f"/leases/{lease['order']['order_id']}/{action}", {"token": lease["token"], **body})


def keep(lease, ended):
    """Renews while the step runs; one that was lost is not renewed, and its result will be refused."""
    while not ended.wait(LEASE_SECONDS / 3):
        try:
            about(lease, "renew", lease=LEASE_SECONDS)
        except (Lost, RuntimeError):
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
        except (Lost, RuntimeError) as error:
            if not stopping.is_set():
                print(f"no order to be had: {error}", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
            return
        for lease in leases:
            order_id = lease["order"]["order_id"]
            with held_lock:
                held[order_id] = lease
            action, body = attempt(lease)
            try:
                order = about(lease, action, **body)
                print(order_id, order["status"], "token", lease["token"], flush=True)
            except (Lost, RuntimeError) as error:
                print(f"{order_id}: {action} was refused: {error}", file=sys.stderr)
            with held_lock:
                held.pop(order_id, None)


def main():
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    for _ in range(THREADS):
        threading.Thread(target=work, daemon=True).start()
    stopping.wait()
    deadline = time.monotonic() + GRACE_SECONDS
    while held and time.monotonic() < deadline:
        time.sleep(0.05)
    # Threads that only wait for an order end with the process: the server notices, and gives the order to others.
    for order_id, lease in list(held.items()):
        try:
            about(lease, "release")
            print(order_id, "given back", flush=True)
        except (Lost, RuntimeError) as error:
            print(f"{order_id} could not be given back: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
