//! Reads a stream of server-sent events (WHATWG HTML section 9.2.6) piece by piece, as it comes from the network. What
//! the events mean, and coming back after a cut, is left to its user.
//!
//! An id counts with the blank line behind its block, also without data: the server names the place a silent stream has
//! come to that way. Before that line its event may still be missing.

use std::time::Duration;

/// Of one line, and of the data of one event: hundreds of times what a change takes.
const BYTES_MAX: usize = 256 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `message` unless the server named another.
    pub name: String,
    pub data: String,
}

/// A line or an event is longer than any that a server of orders sends.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

#[derive(Default)]
pub struct EventStream {
    line: Vec<u8>,
    /// The line feed of a line that ended with a carriage return may still come.
    after_return: bool,
    /// What no longer is the beginning, where a byte order mark may stand.
    begun: bool,
    name: String,
    /// Each line with a line feed behind it.
    data: String,
    /// Of the block that is read, or the last that named one.
    id: Option<String>,
    /// Of the last block that was whole.
    last_id: Option<String>,
    retry: Option<Duration>,
}

impl EventStream {
    /// A stream that is taken up again behind the event with this id.
    pub fn after(last_id: Option<String>) -> EventStream {
        EventStream {
            id: last_id.clone(),
            last_id,
            ..EventStream::default()
        }
    }

    /// What the stream is to be taken up with.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// How long the server asks to wait before that.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// The events that these bytes complete.
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
            // A comment has no name; others are for other readers.
            _ => {}
        }
        Ok(None)
    }

    /// Without data there is no event.
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
        data:first\ndata: second\nignored: x\ndata\n\nevent: unfinished\ndata: and never told";

    fn event(name: &str, data: &str) -> Event {
        Event {
            name: name.to_owned(),
            data: data.to_owned(),
        }
    }

    fn told() -> Vec<Event> {
        vec![
            event("order", "{\"order_id\":1}"),
            event("message", "first\nsecond\n"),
        ]
    }

    #[test]
    fn a_stream_is_the_same_wherever_it_is_cut() {
        for ending in ["\n", "\r\n", "\r"] {
            let text = STREAM.replace('\n', ending);
            for cut in 0..=text.len() {
                let mut stream = EventStream::default();
                let mut events = stream.read(&text.as_bytes()[..cut]).unwrap();
                events.extend(stream.read(&text.as_bytes()[cut..]).unwrap());
                assert_eq!(events, told(), "{ending:?} {cut}");
                assert_eq!(stream.last_id(), Some("b"));
                assert_eq!(stream.retry(), Some(Duration::from_millis(2_500)));
            }
            let mut stream = EventStream::default();
            let bytewise = text.as_bytes().chunks(1);
            let events: Vec<Event> = bytewise.flat_map(|byte| stream.read(byte).unwrap()).collect();
            assert_eq!(events, told(), "{ending:?} byte by byte");
        }
    }

    #[test]
    fn going_on_from_the_last_id_loses_nothing_and_repeats_nothing() {
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
    fn an_id_without_data_is_a_place_and_no_event() {
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
    fn a_byte_order_mark_is_taken_off_once() {
        let mut stream = EventStream::default();
        let events = stream
            .read(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n")
            .unwrap();
        assert_eq!(events, [event("message", "a")]);
    }

    #[test]
    fn what_is_longer_than_any_change_is_not_kept() {
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
