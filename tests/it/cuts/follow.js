// Runs in a page of the server and follows over both transports. Argument: the cursor to begin at.
const [beginning] = arguments;
window.feeds = [];

function feed() {
  const added = { seen: [], resyncs: 0, dead: false };
  window.feeds.push(added);
  return added;
}

function listen(heard) {
  // Reconnects by itself, with the last id it received.
  const source = new EventSource(`/events?after=${beginning}`);
  source.addEventListener('order', (message) => {
    const event = JSON.parse(message.data);
    heard.seen.push([message.lastEventId, event.order_id, event.version]);
  });
  source.addEventListener('resync', () => { heard.resyncs += 1; });
  source.addEventListener('error', () => { heard.dead = source.readyState === EventSource.CLOSED; });
}
listen(feed());

function connect(heard, place) {
  let last = place;
  const socket = new WebSocket(`ws://${location.host}/ws`);
  socket.onopen = () => socket.send(JSON.stringify({ type: 'subscribe', id: 'a', all: true, after: last }));
  socket.onmessage = (message) => {
    const said = JSON.parse(message.data);
    if (said.type === 'event') {
      const { cursor, order_id, version } = said.event;
      heard.seen.push([cursor, order_id, version]);
      last = cursor;
    } else if (said.type === 'resync') {
      heard.resyncs += 1;
    } else {
      last = said.cursor ?? last;
    }
  };
  socket.onclose = () => connect(heard, last);
}
connect(feed(), beginning);
