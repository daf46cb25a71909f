//! Cursors of the feed as clients get them: opaque, safe in a URL, of constant length.

use axum::http::{HeaderName, HeaderValue};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::epoch::EpochIdentity;
use crate::store::{FeedCursor, FeedPosition};

/// Header on reads of orders: the feed after this cursor has every change that the read does not show.
pub const ORDERLY_CURSOR: HeaderName = HeaderName::from_static("orderly-cursor");

/// Problem detail when [`read`] returns `None`.
pub const EXPECTED: &str = "is not a cursor of the feed";

/// First byte. It distinguishes this format from other formats and from cursors of lists of orders.
const FORMAT: u8 = 2;
const BYTES: usize = 1 + 8 + 8;
/// Length of every cursor.
pub const CHARS: usize = (BYTES * 4).div_ceil(3);

pub fn text(cursor: FeedCursor) -> String {
    let mut bytes = [FORMAT; BYTES];
    bytes[1..9].copy_from_slice(&cursor.epoch.0.to_be_bytes());
    bytes[9..].copy_from_slice(&cursor.position.0.to_be_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Parses a cursor; `None` for text that no such server has issued.
pub fn read(text: &str) -> Option<FeedCursor> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let (format, rest) = bytes.split_first()?;
    let (epoch, position) = rest.split_first_chunk()?;
    let position = i64::from_be_bytes(position.try_into().ok()?);
    (*format == FORMAT && position >= 0).then_some(FeedCursor {
        epoch: EpochIdentity(u64::from_be_bytes(*epoch)),
        position: FeedPosition(position),
    })
}

/// Returns the value of [`ORDERLY_CURSOR`].
pub fn header(cursor: FeedCursor) -> HeaderValue {
    HeaderValue::try_from(text(cursor)).expect("base64 is valid in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_a_round_trip() {
        for (epoch, position) in [(0, 0), (1, 45), (u64::MAX, i64::MAX)] {
            let cursor = FeedCursor {
                epoch: EpochIdentity(epoch),
                position: FeedPosition(position),
            };
            assert_eq!(read(&text(cursor)), Some(cursor));
            assert_eq!(text(cursor).len(), CHARS);
        }
    }

    #[test]
    fn text_that_was_never_issued_is_not_a_cursor() {
        let good = text(FeedCursor {
            epoch: EpochIdentity(7),
            position: FeedPosition(45),
        });
        let negative = text(FeedCursor {
            epoch: EpochIdentity(7),
            position: FeedPosition(-1),
        });
        let of_a_list = BASE64_URL_SAFE_NO_PAD.encode([1; BYTES]);
        let padded = format!("{good}=");
        let longer = format!("{good}A");
        for bad in [
            "",
            "45",
            "now",
            &good[1..],
            &padded,
            &longer,
            &negative,
            &of_a_list,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
