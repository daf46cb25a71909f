// Places, reads, explains and completes an order with the types that openapi-typescript generates.
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

declare const process: { argv: string[] };

const client = createClient<paths>({ baseUrl: process.argv[2] });

function expect(holds: boolean, given: unknown): void {
  if (!holds) throw new Error(JSON.stringify(given));
}

const placed = await client.POST("/orders", {
  body: {
    user_id: 104,
    item_ids: [101, 102, 103],
    total_amount: 19.99,
    metadata: { gift: { wrapped: true } },
  },
});
if (!placed.data) throw placed.error;
expect(placed.data.status === "Pending", placed.data);
const path = { id: placed.data.order_id };

const explained = await client.GET("/orders/{id}/explain", { params: { path } });
if (!explained.data) throw explained.error;
const reason = explained.data.reasons[0];
expect(reason?.reason === "waits_for_worker" && reason.detail.length > 0, reason);

const taken = await client.POST("/leases", { body: { max: 1 } });
if (!taken.data) throw taken.error;
const lease = taken.data.leases[0];
if (!lease) throw new Error("there is an order to take");
expect(lease.order.order_id === path.id, lease);
const result = { parcel: "JD 1", lines: [1, 2.5, null] };
const completed = await client.POST("/leases/{id}/complete", {
  params: { path },
  body: { token: lease.token, result },
});
if (!completed.data) throw completed.error;
expect(completed.data.status === "Completed", completed.data);

const read = await client.GET("/orders/{id}", { params: { path } });
if (!read.data) throw read.error;
expect(JSON.stringify(read.data.result) === JSON.stringify(result), read.data);
expect(JSON.stringify(read.data.metadata?.["gift"]) === '{"wrapped":true}', read.data);
console.log("done");
