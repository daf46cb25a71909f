-- For wrk: one order per request. wrk -t2 -c64 -d10s -s loadtest/post.lua http://127.0.0.1:5000/orders
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"user_id": 104, "item_ids": [101,102,103], "total_amount": 250.75}'

-- Anything but 201 invalidates the figure, so errors are printed.
function done(summary, latency)
  local wrong = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  io.write(string.format("requests %d, errors %d, p99 %.2f ms\n", summary.requests, wrong, latency:percentile(99) / 1000))
end
