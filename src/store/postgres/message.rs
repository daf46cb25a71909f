//! Texts of several statements that are sent as one message. Such a message takes no parameters: numbers are put into its
//! text, and texts never are.

/// `text` with every name (`:places`) replaced by its number.
pub(super) fn with_numbers(text: &str, numbers: &[(&str, i64)]) -> String {
    numbers.iter().fold(text.to_owned(), |text, (name, number)| {
        text.replace(name, &number.to_string())
    })
}
