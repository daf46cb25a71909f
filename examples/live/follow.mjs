// Follows all orders: first what there is, then every change after it, without a gap. Node 20 or newer, nothing to
// install; `events` works in a browser as well, and sends the key that EventSource cannot.
//
//     ORDERLY_URL=http://127.0.0.1:5000 ORDERLY_API_KEY=... node follow.mjs

const url = process.env.ORDERLY_URL ?? "http://127.0.0.1:5000";
const key = process.env.ORDERLY_API_KEY;
/** The server sends a sign of life every 15 seconds. */
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

/** Yields { name, data } for ever, behind the cursor; comes back by itself when the connection is lost. */
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
            cursor = id; // counts with this line, not before, and without data, too
            if (data.length) yield { name, data: data.join("\n") };
            name = "message";
            data = [];
          }
        }
      }
      console.error("the server ended the stream; coming back");
    } catch (error) {
      if (error.passes === false) throw error;
      console.error(`${error.cause?.message ?? error.message}; coming back`);
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
    await new Promise(done => setTimeout(done, retry * (1 + Math.random())));
  }
}

/** By order; whoever follows for long keeps them where his copy of the orders is. */
const versions = new Map();
const answer = await ask("/orders?limit=100");
for (const order of (await answer.json()).orders.reverse()) {
  versions.set(order.order_id, order.version);
  console.log(order.order_id, order.status, "version", order.version);
}
// Never newer than what the answer shows: no change is left out.
for await (const { name, data } of events(answer.headers.get("Orderly-Cursor"))) {
  const event = JSON.parse(data);
  if (name === "resync") {
    console.error("changes were missed: read what you need again; going on from now");
  } else if (name === "order" && !(versions.get(event.order_id) >= event.version)) {
    versions.set(event.order_id, event.version);
    console.log(event.order_id, event.status, "version", event.version, event.kind);
  }
}
