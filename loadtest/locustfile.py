"""Load on an orderly server like that of a shop: mostly new orders, some status reads, few reads of the metrics.

    pip install locust
    locust -f loadtest/locustfile.py --host=http://127.0.0.1:5000

If the server has an API key, set ORDERLY_API_KEY for locust too. A closed loop like this one measures
throughput; its response times are not those of users in an open system.
"""

import os
import random
import uuid

from locust import FastHttpUser, between, task


class Shop(FastHttpUser):
    wait_time = between(0.1, 0.5)

    def on_start(self):
        self.order_ids = []
        key = os.environ.get("ORDERLY_API_KEY")
        self.auth = {"Authorization": f"Bearer {key}"} if key else {}

    @task(6)
    def create_order(self):
        order = {
            "user_id": random.randint(1, 1000),
            "item_ids": [random.randint(100, 999) for _ in range(random.randint(1, 12))],
            "total_amount": f"{random.randint(100, 100000) / 100:.2f}",
        }
        headers = {**self.auth, "Idempotency-Key": str(uuid.uuid4())}
        with self.client.post("/orders", json=order, headers=headers, catch_response=True) as response:
            if response.status_code != 201:
                response.failure(f"{response.status_code}: {response.text}")
                return
            self.order_ids = (self.order_ids + [response.json()["order_id"]])[-100:]

    @task(3)
    def read_order(self):
        if self.order_ids:
            order_id = random.choice(self.order_ids)
            self.client.get(f"/orders/{order_id}", headers=self.auth, name="/orders/{id}")

    @task(1)
    def read_metrics(self):
        self.client.get("/metrics", headers={**self.auth, "Accept": "application/json"})
