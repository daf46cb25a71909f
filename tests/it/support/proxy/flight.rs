//! A flight: the messages a client sends before it waits, either a simple query or everything up to a Sync. `link.rs`
//! applies actions to it.

use super::frame::Frame;

const PARSE: u8 = b'P';
const QUERY: u8 = b'Q';
const SYNC: u8 = b'S';
const FUNCTION_CALL: u8 = b'F';
const FLUSH: u8 = b'H';
/// Messages of an unfinished flight; all other messages stand alone.
const EXTENDED: [u8; 6] = [PARSE, b'B', b'D', b'E', b'C', FLUSH];

/// A complete flight. The server answers each with one `ReadyForQuery`.
#[derive(Debug, Default)]
pub struct Flight {
    frames: Vec<Frame>,
}

/// The effect of a client message.
#[derive(Debug)]
pub enum Gathered {
    Flight(Flight),
    /// The flight is not complete yet.
    More,
    /// Belongs to no flight: passwords, copy data, termination.
    Alone(Frame),
}

/// Collects the messages of one client.
#[derive(Default)]
pub struct Gathering {
    frames: Vec<Frame>,
}

impl Gathering {
    pub fn take(&mut self, frame: Frame) -> Gathered {
        match frame.tag {
            QUERY | SYNC | FUNCTION_CALL => {
                self.frames.push(frame);
                Gathered::Flight(Flight {
                    frames: std::mem::take(&mut self.frames),
                })
            }
            tag if EXTENDED.contains(&tag) => {
                self.frames.push(frame);
                Gathered::More
            }
            _ => Gathered::Alone(frame),
        }
    }
}

impl Flight {
    /// The text of its statements, one per line. Statements prepared earlier show no text.
    pub fn sql(&self) -> String {
        let texts = self.frames.iter().filter_map(|frame| {
            let text = &frame.body[sql_of(frame)?];
            Some(String::from_utf8_lossy(text).into_owned())
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// Replaces text in its statements everywhere.
    pub fn rewrite(&mut self, from: &str, to: &str) {
        for frame in &mut self.frames {
            if let Some(range) = sql_of(frame) {
                let text = String::from_utf8_lossy(&frame.body[range.clone()]).replace(from, to);
                frame.body.splice(range, text.into_bytes());
            }
        }
    }

    /// Splits off the message that completes execution: the Sync, or all of a simple query.
    pub fn split(&self) -> (Vec<u8>, Vec<u8>) {
        let (last, first) = self.frames.split_last().expect("a flight has messages");
        (encoded(first), encoded(std::slice::from_ref(last)))
    }

    pub fn encode(&self) -> Vec<u8> {
        encoded(&self.frames)
    }
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    bytes
}

/// The range of the statement's text in the message.
fn sql_of(frame: &Frame) -> Option<std::ops::Range<usize>> {
    let end_of_string = |from: usize| {
        let length = frame.body.get(from..)?.iter().position(|byte| *byte == 0)?;
        Some(from + length)
    };
    let start = match frame.tag {
        QUERY => 0,
        // The name of the statement comes first.
        PARSE => end_of_string(0)? + 1,
        _ => return None,
    };
    Some(start..end_of_string(start)?)
}

mod tests {
    use super::*;

    fn frame(tag: u8, body: &[u8]) -> Frame {
        Frame {
            tag,
            body: body.to_vec(),
        }
    }

    fn extended() -> Vec<Frame> {
        vec![
            frame(b'P', b"\0select $1\0\0\x01\0\0\0\x14"),
            frame(b'B', b"\0\0\0\0\0\0\0\0"),
            frame(b'E', b"\0\0\0\0\0"),
            frame(b'P', b"named\0select 2\0\0\0"),
            frame(b'S', b""),
        ]
    }

    fn flight(frames: Vec<Frame>) -> Flight {
        let mut gathering = Gathering::default();
        let mut gathered: Vec<Gathered> = frames.into_iter().map(|frame| gathering.take(frame)).collect();
        match gathered.pop() {
            Some(Gathered::Flight(flight)) => flight,
            other => panic!("not a flight: {other:?}"),
        }
    }

    #[test]
    fn a_flight_ends_with_its_sync() {
        let mut gathering = Gathering::default();
        let mut frames = extended();
        let sync = frames.pop().unwrap();
        for frame in frames {
            assert!(matches!(gathering.take(frame), Gathered::More));
        }
        assert!(matches!(gathering.take(sync), Gathered::Flight(_)));
    }

    #[test]
    fn a_simple_query_is_a_flight() {
        let flight = flight(vec![frame(b'Q', b"begin; commit\0")]);
        assert_eq!(flight.sql(), "begin; commit");
    }

    #[test]
    fn passwords_and_terminations_are_no_flights() {
        for tag in [b'p', b'X', b'd', b'c', b'f'] {
            let gathered = Gathering::default().take(frame(tag, b""));
            assert!(matches!(gathered, Gathered::Alone(_)), "{}", char::from(tag));
        }
    }

    #[test]
    fn a_flight_shows_the_text_of_all_its_statements() {
        assert_eq!(flight(extended()).sql(), "select $1\nselect 2");
    }

    #[test]
    fn a_rewritten_statement_keeps_the_rest_of_its_message() {
        let mut flight = flight(extended());
        flight.rewrite("select", "values");
        flight.rewrite("$1", "($1 + 1)");
        assert_eq!(flight.sql(), "values ($1 + 1)\nvalues 2");
        assert_eq!(flight.frames[0].body, b"\0values ($1 + 1)\0\0\x01\0\0\0\x14");
        assert_eq!(flight.frames[1..3], extended()[1..3]);
        assert_eq!(flight.frames[3].body, b"named\0values 2\0\0\0");
    }

    #[test]
    fn a_flight_splits_before_its_sync() {
        let flight = flight(extended());
        let (first, last) = flight.split();
        assert_eq!(last, [b'S', 0, 0, 0, 4]);
        assert_eq!([first, last].concat(), flight.encode());
    }
}
