//! The text that names a place in the feed: opaque to clients, safe in a URL, always of one length.

use axum::http::{HeaderName, HeaderValue};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::epoch::EpochIdentity;
use crate::store::{FeedCursor, FeedPosition};

/// Carried by reads of orders: from there on the feed tells what they do not show.
pub const ORDERLY_CURSOR: HeaderName = HeaderName::from_static("orderly-cursor");

/// Why [`read`] gave `None`.
pub const EXPECTED: &str = "is not a cursor of a feed of orders";

/// First byte, so that another form, and a cursor of a list of orders, is told from this one.
const FORM: u8 = 2;
const BYTES: usize = 1 + 8 + 8;
/// Of every cursor.
pub const CHARS: usize = (BYTES * 4).div_ceil(3);

pub fn text(cursor: FeedCursor) -> String {
    let mut bytes = [FORM; BYTES];
    bytes[1..9].copy_from_slice(&cursor.epoch.0.to_be_bytes());
    bytes[9..].copy_from_slice(&cursor.position.0.to_be_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// `None` for what this server, or one like it, never gave out.
pub fn read(text: &str) -> Option<FeedCursor> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let (form, rest) = bytes.split_first()?;
    let (epoch, position) = rest.split_first_chunk()?;
    let position = i64::from_be_bytes(position.try_into().ok()?);
    (*form == FORM && position >= 0).then_some(FeedCursor {
        epoch: EpochIdentity(u64::from_be_bytes(*epoch)),
        position: FeedPosition(position),
    })
}

/// The value of [`ORDERLY_CURSOR`].
pub fn header(cursor: FeedCursor) -> HeaderValue {
    HeaderValue::try_from(text(cursor)).expect("base64 is fit for a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
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
    fn what_was_never_given_out_is_no_cursor() {
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
