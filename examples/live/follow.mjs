// Follows all orders: first the existing ones, then every change after them, without a gap. Node 20 or newer, no
// dependencies; `events` also works in a browser and sends the key, which EventSource cannot.
//
//     ORDERLY_URL=http://127.0.0.1:5000 ORDERLY_API_KEY=... node follow.mjs

const url = process.env.ORDERLY_URL ?? "http://127.0.0.1:5000";
const key = process.env.ORDERLY_API_KEY;
/** The server sends a keep-alive every 15 seconds. */
const SILENCE_MS_MAX = 45_000;

async function ask(path, headers = {}, signal) {
  const answer = await fetch(url + path, {
    headers: { ...(key && { Authorization: `Bearer ${key}` }), ...headers },
    cache: "no-store",
    signal,
  });
  if (answer.ok) return answer;
  const refusal = new Error(`${answer.status} ${await answer.text()}`);
  refusal.passes = answer.status >= 500 || [408, 429].includes(answer.status);
  throw refusal;
}

/** Yields { name, data } forever, starting after the cursor; reconnects when the connection is lost. */
export async function* events(cursor) {
  let retry = 2_000;
  for (;;) {
    const silence = new AbortController();
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(new Error("silence")), SILENCE_MS_MAX);
    };
    try {
      alive();
      const headers = { Accept: "text/event-stream", "Last-Event-ID": cursor };
      const answer = await ask("/events", headers, silence.signal);
      const decoder = new TextDecoder();
      let text = "", name = "message", data = [], id = cursor;
      for await (const bytes of answer.body) {
        alive();
        const lines = (text + decoder.decode(bytes, { stream: true })).split("\n");
        text = lines.pop();
        for (const line of lines) {
          const [, field, value] = /^([^:]*):? ?(.*?)\r?$/.exec(line);
          if (field === "id") id = value;
          else if (field === "event") name = value;
          else if (field === "data") data.push(value);
          else if (field === "retry") retry = Number(value);
          else if (line.trim() === "") {
            cursor = id; // takes effect at this line, even without data
            if (data.length) yield { name, data: data.join("\n") };
            name = "message";
            data = [];
          }
        }
      }
      console.error("the server ended the stream; reconnecting");
    } catch (error) {
      if (error.passes === false) throw error;
      console.error(`${error.cause?.message ?? error.message}; reconnecting`);
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
    await new Promise(done => setTimeout(done, retry * (1 + Math.random())));
  }
}

/** Versions by order; a long-running client keeps them with its copy of the orders. */
const versions = new Map();
const answer = await ask("/orders?limit=100");
for (const order of (await answer.json()).orders.reverse()) {
  versions.set(order.order_id, order.version);
  console.log(order.order_id, order.status, "version", order.version);
}
// The cursor is never newer than the listed orders, so no change is missing.
for await (const { name, data } of events(answer.headers.get("Orderly-Cursor"))) {
  const event = JSON.parse(data);
  if (name === "resync") {
    console.error("changes were missed: read the orders again; continuing from now");
  } else if (name === "order" && !(versions.get(event.order_id) >= event.version)) {
    versions.set(event.order_id, event.version);
    console.log(event.order_id, event.status, "version", event.version, event.kind);
  }
}
