//! Parser of server-sent events (WHATWG HTML section 9.2.6), fed with bytes as they arrive. The caller interprets the
//! events and reconnects.
//!
//! An id takes effect at the blank line that ends its block, even without data: the server sends the position of a silent
//! stream that way. Before that line the event may still be incomplete.

use std::time::Duration;

/// Maximum size of one line and of one event's data: hundreds of times a change.
const BYTES_MAX: usize = 256 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `message` unless the server named another.
    pub name: String,
    pub data: String,
}

/// A line or an event exceeds `BYTES_MAX`.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

#[derive(Default)]
pub struct EventStream {
    line: Vec<u8>,
    /// Set when a line ended with a carriage return whose line feed may still follow.
    after_return: bool,
    /// Set after the first line, where a byte order mark may stand.
    begun: bool,
    name: String,
    /// Data lines, each followed by a line feed.
    data: String,
    /// The id of the current block, or the last one given.
    id: Option<String>,
    /// The id of the last complete block.
    last_id: Option<String>,
    retry: Option<Duration>,
}

impl EventStream {
    /// Creates a parser of a stream resumed after the event with this id.
    pub fn after(last_id: Option<String>) -> EventStream {
        EventStream {
            id: last_id.clone(),
            last_id,
            ..EventStream::default()
        }
    }

    /// Returns the id to resume the stream with.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Returns the reconnect delay that the server asks for.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Returns the events that these bytes complete.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        if self.after_return && !bytes.is_empty() {
            self.after_return = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.extend(&bytes[..end])?;
            let ending = bytes[end];
            bytes = &bytes[end + 1..];
            if ending == b'\r' {
                match bytes.first() {
                    Some(b'\n') => bytes = &bytes[1..],
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            events.extend(self.end_line()?);
        }
        self.extend(bytes)?;
        Ok(events)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + bytes.len() > BYTES_MAX {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Event>, TooLong> {
        let bytes = std::mem::take(&mut self.line);
        let mut line = &bytes[..];
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.data.len() + value.len() >= BYTES_MAX {
                    return Err(TooLong);
                }
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis);
            }
            // A comment has an empty name; other fields are not for this parser.
            _ => {}
        }
        Ok(None)
    }

    /// Ends a block; without data there is no event.
    fn dispatch(&mut self) -> Option<Event> {
        self.last_id.clone_from(&self.id);
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        data.pop()?;
        Some(Event {
            name: if name.is_empty() {
                "message".to_owned()
            } else {
                name
            },
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 2500\nid: a\n\n: a comment\n\nevent: order\nid: b\ndata: {\"order_id\":1}\n\n\
        data:first\ndata: second\nignored: x\ndata\n\nevent: unfinished\ndata: and never sent";

    fn event(name: &str, data: &str) -> Event {
        Event {
            name: name.to_owned(),
            data: data.to_owned(),
        }
    }

    fn expected() -> Vec<Event> {
        vec![
            event("order", "{\"order_id\":1}"),
            event("message", "first\nsecond\n"),
        ]
    }

    #[test]
    fn a_stream_reads_the_same_wherever_it_is_cut() {
        for ending in ["\n", "\r\n", "\r"] {
            let text = STREAM.replace('\n', ending);
            for cut in 0..=text.len() {
                let mut stream = EventStream::default();
                let mut events = stream.read(&text.as_bytes()[..cut]).unwrap();
                events.extend(stream.read(&text.as_bytes()[cut..]).unwrap());
                assert_eq!(events, expected(), "{ending:?} {cut}");
                assert_eq!(stream.last_id(), Some("b"));
                assert_eq!(stream.retry(), Some(Duration::from_millis(2_500)));
            }
            let mut stream = EventStream::default();
            let bytewise = text.as_bytes().chunks(1);
            let events: Vec<Event> = bytewise.flat_map(|byte| stream.read(byte).unwrap()).collect();
            assert_eq!(events, expected(), "{ending:?} byte by byte");
        }
    }

    #[test]
    fn resuming_from_the_last_id_loses_and_repeats_nothing() {
        let blocks = [
            ("a", "retry: 10\nid: a\n\n", None),
            ("b", "event: order\nid: b\ndata: 1\n\n", Some(event("order", "1"))),
            ("c", ":\nid: c\n\n", None),
            ("d", "data: 2\ndata: 2\nid: d\n\n", Some(event("message", "2\n2"))),
            ("e", "id: e\nevent: order\ndata: 3\n\n", Some(event("order", "3"))),
        ];
        let all: Vec<Event> = blocks.iter().filter_map(|(_, _, event)| event.clone()).collect();
        let text: String = blocks.iter().map(|(_, text, _)| *text).collect();
        for cut in 0..=text.len() {
            let mut stream = EventStream::default();
            let mut events = stream.read(&text.as_bytes()[..cut]).unwrap();
            let last = blocks.iter().position(|(id, ..)| stream.last_id() == Some(id));
            let rest: String = blocks[last.map_or(0, |last| last + 1)..]
                .iter()
                .map(|(_, text, _)| *text)
                .collect();
            let mut again = EventStream::after(stream.last_id().map(str::to_owned));
            events.extend(again.read(rest.as_bytes()).unwrap());
            assert_eq!(events, all, "cut at {cut}");
            assert_eq!(again.last_id(), Some("e"));
        }
    }

    #[test]
    fn an_id_without_data_sets_the_position_without_an_event() {
        let mut stream = EventStream::after(Some("a".to_owned()));
        assert_eq!(stream.last_id(), Some("a"));
        assert_eq!(stream.read(b":\nid: b\n").unwrap(), []);
        assert_eq!(stream.last_id(), Some("a"), "its block has not ended");
        assert_eq!(stream.read(b"\n").unwrap(), []);
        assert_eq!(stream.last_id(), Some("b"));
        stream.read(b"id: with\0nul\nretry: soon\n\n").unwrap();
        assert_eq!((stream.last_id(), stream.retry()), (Some("b"), None));
    }

    #[test]
    fn a_byte_order_mark_is_removed_once() {
        let mut stream = EventStream::default();
        let events = stream
            .read(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n")
            .unwrap();
        assert_eq!(events, [event("message", "a")]);
    }

    #[test]
    fn a_line_or_event_above_the_limit_is_an_error() {
        let piece = vec![b'x'; BYTES_MAX / 4];
        let mut endless_line = EventStream::default();
        let read = (0..5).map(|_| endless_line.read(&piece)).collect::<Vec<_>>();
        assert_eq!(read.last(), Some(&Err(TooLong)));

        let line = [b"data: ", &piece[..], b"\n"].concat();
        let mut endless_event = EventStream::default();
        let read = (0..5).map(|_| endless_event.read(&line)).collect::<Vec<_>>();
        assert_eq!(read.last(), Some(&Err(TooLong)));
    }
}
