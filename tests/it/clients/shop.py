"""Places, reads, explains and completes an order with the client that openapi-python-client generates."""

import sys

from orderly_client import Client
from orderly_client.api.orders import accept_order, explain_order, read_order
from orderly_client.api.workers import complete_lease, take_leases
from orderly_client.models import Complete, NewOrder, NewOrderMetadataType0, Reason, Status, Take

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)

metadata = NewOrderMetadataType0.from_dict({"gift": {"wrapped": True, "lines": ["for you"]}})
new_order = NewOrder(user_id=104, item_ids=[101, 102, 103], total_amount=19.99, metadata=metadata)
placed = accept_order.sync(client=client, body=new_order)
assert placed.status is Status.PENDING, placed
assert placed.metadata["gift"] == {"wrapped": True, "lines": ["for you"]}, placed

explanation = explain_order.sync(placed.order_id, client=client)
assert explanation.reasons[0].reason is Reason.WAITS_FOR_WORKER, explanation
assert explanation.reasons[0].detail, explanation

lease = take_leases.sync(client=client, body=Take(max_=1)).leases[0]
assert lease.order.order_id == placed.order_id, lease
result = {"parcel": "JD 1", "lines": [1, 2.5, None]}
completed = complete_lease.sync(placed.order_id, client=client, body=Complete(token=lease.token, result=result))
assert completed.status is Status.COMPLETED, completed

read = read_order.sync(placed.order_id, client=client)
assert read.result == result, read
assert read.metadata["gift"]["wrapped"] is True, read
print("done")
