#!/usr/bin/env python3
"""Follows all orders: first the existing ones, then every change after them, without a gap. Python 3.9, no dependencies.

    ORDERLY_URL=http://127.0.0.1:5000 ORDERLY_API_KEY=... ./follow.py
"""

import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request

URL = os.environ.get("ORDERLY_URL", "http://127.0.0.1:5000")
KEY = os.environ.get("ORDERLY_API_KEY")
# The server sends a keep-alive every 15 seconds.
SILENCE_SECONDS_MAX = 45


def ask(path, **headers):
    request = urllib.request.Request(URL + path)
    if KEY:
        request.add_header("Authorization", "Bearer " + KEY)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    return urllib.request.urlopen(request, timeout=SILENCE_SECONDS_MAX)


def events(cursor):
    """Yields (name, data) forever, starting after the cursor; reconnects when the connection is lost."""
    retry_ms = 2000
    while True:
        try:
            with ask("/events", Accept="text/event-stream", Last_Event_ID=cursor) as stream:
                name, data, last_id = "message", [], cursor
                for line in stream:
                    # A connection may end anywhere, even within a character.
                    field, _, value = line.decode(errors="replace").rstrip("\r\n").partition(":")
                    value = value.removeprefix(" ")
                    if field == "id":
                        last_id = value
                    elif field == "event":
                        name = value
                    elif field == "data":
                        data.append(value)
                    elif field == "retry" and value.isdigit():
                        retry_ms = int(value)
                    elif line in (b"\n", b"\r\n"):
                        cursor = last_id  # takes effect at this line, even without data
                        if data:
                            yield name, "\n".join(data)
                        name, data = "message", []
            reason = "the server ended the stream"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                sys.exit(f"refused: {error.code} {error.read().decode(errors='replace')}")
            reason = str(error)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error)
        print(f"{reason}; reconnecting", file=sys.stderr)
        time.sleep(retry_ms / 1000 * random.uniform(1, 2))


def main():
    versions = {}  # by order; a long-running client keeps them with its copy of the orders
    with ask("/orders?limit=100") as answer:
        # The cursor is never newer than the listed orders, so no change is missing.
        cursor = answer.headers["Orderly-Cursor"]
        for order in reversed(json.load(answer)["orders"]):
            versions[order["order_id"]] = order["version"]
            print(order["order_id"], order["status"], "version", order["version"])
    for name, data in events(cursor):
        event = json.loads(data)
        if name == "resync":
            print("changes were missed: read the orders again; continuing from now", file=sys.stderr)
        elif name == "order" and versions.get(event["order_id"], 0) < event["version"]:
            versions[event["order_id"]] = event["version"]
            print(event["order_id"], event["status"], "version", event["version"], event["kind"], flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
