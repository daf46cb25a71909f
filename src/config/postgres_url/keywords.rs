//! Parser of libpq's keyword form of a connection string, `host=db.example dbname=orders`. No error repeats the text,
//! which may be secret.

use super::parameters;

/// Reports whether a text has this form: it begins with a parameter of libpq and an `=`.
pub fn are_meant(text: &str) -> bool {
    let name = text.split_once('=').map(|(name, _)| name.trim());
    name.is_some_and(parameters::is_libpqs)
}

/// Returns the parameters in the order given.
pub fn of(text: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest
            .split_once('=')
            .ok_or("a part of the connection string is not of the form NAME=VALUE")?;
        let name = name.trim_end();
        if name.contains(char::is_whitespace) {
            return Err("a part of the connection string is not of the form NAME=VALUE".to_owned());
        }
        let (value, after) = value(after.trim_start())?;
        found.push((name.to_owned(), value.into_bytes()));
        rest = after.trim_start();
    }
    Ok(found)
}

/// Splits off a value, up to a blank or between single quotes. A backslash escapes the next character.
fn value(text: &str) -> Result<(String, &str), String> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            blank if !quoted && blank.is_whitespace() => return Ok((value, &text[at..])),
            plain => value.push(plain),
        }
    }
    if quoted {
        return Err("a quote in the connection string is not closed".to_owned());
    }
    Ok((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_and_escaped_as_in_libpq() {
        let found =
            of(r" host=a,b port = 1 password='it\'s \\ a=b' options='-c x=y' dbname=a\ b user=''").unwrap();
        let expected = [
            ("host", "a,b"),
            ("port", "1"),
            ("password", r"it's \ a=b"),
            ("options", "-c x=y"),
            ("dbname", "a b"),
            ("user", ""),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        assert_eq!(found, expected);
    }

    #[test]
    fn an_invalid_text_is_refused_without_repeating_it() {
        for text in [
            "host=a hunter2",
            "host=a password='hunter2",
            "host=a hunter2 x=y",
            "password 'hunter2'",
        ] {
            let error = of(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_form_is_recognised_by_a_libpq_parameter() {
        for (text, meant) in [
            ("host=a dbname=b", true),
            (" service = orders", true),
            ("sqlite:a=b", false),
            ("hunter2=", false),
            ("host", false),
        ] {
            assert_eq!(are_meant(text), meant, "{text}");
        }
    }
}
