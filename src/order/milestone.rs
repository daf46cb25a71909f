//! Milestones: facts that clients report about an order, whatever its status, such as `packed` or `shipped`.

use super::{MILESTONE_CHARS_MAX, MILESTONE_DATA_BYTES_MAX};
use crate::portable_json;

/// 1 to [`MILESTONE_CHARS_MAX`] of `a` to `z` and `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MilestoneName(Box<str>);

/// Reason why a text is no name of a milestone; the message is fit for an API answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {MILESTONE_CHARS_MAX} characters, a to z or _")]
pub struct MilestoneNameError;

impl MilestoneName {
    pub fn parse(text: &str) -> Result<MilestoneName, MilestoneNameError> {
        let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        let fits = (1..=MILESTONE_CHARS_MAX).contains(&text.len());
        (fits && text.bytes().all(is_legal))
            .then(|| MilestoneName(text.into()))
            .ok_or(MilestoneNameError)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A milestone as a client reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Milestone {
    pub name: MilestoneName,
    /// The text of a JSON object, unchanged, of at most [`MILESTONE_DATA_BYTES_MAX`] bytes.
    pub data: Option<Box<str>>,
}

/// Checks the data of a milestone; the error is fit for an API answer.
pub fn check_milestone_data(text: &str) -> Result<(), String> {
    if text.len() > MILESTONE_DATA_BYTES_MAX {
        return Err(format!("must not exceed {MILESTONE_DATA_BYTES_MAX} bytes"));
    }
    portable_json::check(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_small_letters_and_underscores() {
        for name in ["packed", "out_for_delivery", "_", &"x".repeat(50)] {
            assert_eq!(MilestoneName::parse(name).unwrap().as_str(), name);
        }
        for name in [
            "",
            "Packed",
            "packed 2",
            "packed-2",
            "verpackt\u{e4}",
            &"x".repeat(51),
        ] {
            assert_eq!(MilestoneName::parse(name), Err(MilestoneNameError), "{name}");
        }
    }
}
