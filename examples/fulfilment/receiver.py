#!/usr/bin/env python3
"""Service that processes orders for orderly (ORDERLY_PROCESSOR=http). Python 3.9, no dependencies: ./receiver.py [PORT]"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        items = order["item_ids"].split(",")
        if "13" in items:  # Failed, with this as the reason
            status, answer = 422, b"item 13 is not for sale"
        elif "7" in items and self.headers["Orderly-Attempt"] == "1":  # retried: this order, not now
            status, answer = 429, b"item 7 is being restocked"  # 503 would mean that the service is down
        else:  # Completed; `result` is kept on the order
            status, answer = 200, json.dumps({"result": {"parcel": self.headers["Idempotency-Key"]}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


server = ThreadingHTTPServer(("127.0.0.1", int((sys.argv + ["8000"])[1])), Receiver)
print("listening on http://127.0.0.1:%d/" % server.server_port, flush=True)
server.serve_forever()
