//! Renders an error with its causes as one text.

use std::error::Error;

/// Returns an error and all its sources on one line. A source already contained in the text is left out, since some
/// errors include theirs.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the file: {source}")]
    struct ShowsItsSource {
        source: std::io::Error,
    }

    #[test]
    fn causes_are_listed_in_order_and_once_each() {
        let error = anyhow::anyhow!("the disk is gone").context("open the file");
        assert_eq!(with_causes(error.as_ref()), "open the file: the disk is gone");
        let error = ShowsItsSource {
            source: std::io::Error::other("the disk is gone"),
        };
        assert_eq!(with_causes(&error), "open the file: the disk is gone");
        let error = anyhow::Error::new(error).context("start");
        assert_eq!(
            with_causes(error.as_ref()),
            "start: open the file: the disk is gone"
        );
    }
}
