//! Splits a PostgreSQL URL as libpq does, into its keywords: user, password, host, port, dbname and the parameters, all
//! decoded. `reader.rs` interprets them. No error repeats the text, which may be secret.

use percent_encoding::percent_decode_str;

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// Returns the keywords with their values, in the URL's order; the value of a missing part is empty.
pub fn of(url: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let rest = SCHEMES
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme))
        .ok_or("not a URL of the form postgres://USER:PASSWORD@HOST/DATABASE")?;
    let (credentials, rest) = split_credentials(rest)?;
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let pairs: Vec<(&str, &str)> = authority.split(',').map(split_port).collect::<Result<_, _>>()?;
    let (hosts, ports): (Vec<&str>, Vec<&str>) = pairs.into_iter().unzip();
    let mut keywords = vec![
        ("user".to_owned(), decoded_text(user)?.into_bytes()),
        // Raw bytes, as the server takes a password.
        ("password".to_owned(), decoded(password)?),
        ("host".to_owned(), decoded_text(&hosts.join(","))?.into_bytes()),
        ("port".to_owned(), decoded_text(&ports.join(","))?.into_bytes()),
        ("dbname".to_owned(), decoded_text(database)?.into_bytes()),
    ];
    for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or("a parameter after the `?` is not of the form NAME=VALUE")?;
        keywords.push(match (decoded_text(name)?, decoded(value)?) {
            // JDBC's spelling, which libpq accepts.
            (name, value) if name == "ssl" && value == b"true" => ("sslmode".to_owned(), b"require".to_vec()),
            parameter => parameter,
        });
    }
    Ok(keywords)
}

/// Splits at the `@`. A second `@`, or one elsewhere, must belong to a password or a parameter; splitting there would put
/// half a secret into a host, a name or a warning.
fn split_credentials(rest: &str) -> Result<(&str, &str), String> {
    let (credentials, rest) = rest.split_once('@').unwrap_or(("", rest));
    if credentials.contains('/') || rest.contains('@') {
        return Err("an `@` or a `/` in the user name, the password or a parameter \
                    must be written as %40 or %2F"
            .to_owned());
    }
    Ok((credentials, rest))
}

fn split_port(pair: &str) -> Result<(&str, &str), String> {
    let Some(bracketed) = pair.strip_prefix('[') else {
        return Ok(pair.split_once(':').unwrap_or((pair, "")));
    };
    let (host, port) = bracketed
        .split_once(']')
        .ok_or("the `[` before an IPv6 address has no closing `]`")?;
    match port.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if port.is_empty() => Ok((host, port)),
        None => Err("only a port can follow the `]` of an IPv6 address".to_owned()),
    }
}

fn decoded_text(text: &str) -> Result<String, String> {
    String::from_utf8(decoded(text)?).map_err(|_| "a part other than the password is not UTF-8".to_owned())
}

/// Decodes percent-encoding (RFC 3986, section 2.1). A `+` is literal.
fn decoded(text: &str) -> Result<Vec<u8>, String> {
    let is_code = |after: &str| {
        let digits = after.as_bytes().first_chunk::<2>();
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_code) {
        return Err("a literal `%` must be written as %25".to_owned());
    }
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    if bytes.contains(&0) {
        // The protocol ends its strings with a zero byte.
        return Err("%00 is not allowed".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(keywords: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
        keywords.iter().map(pair).collect()
    }

    #[test]
    fn every_part_is_found_and_decoded() {
        let found =
            of("postgresql://m%C3%A9:p%40ss%2Fw+rd%25@h1:1,[::1]:2,h3/d%20b?a=b%26c&&d=e=f&").unwrap();
        let expected = pairs(&[
            ("user", "mé"),
            ("password", "p@ss/w+rd%"),
            ("host", "h1,::1,h3"),
            ("port", "1,2,"),
            ("dbname", "d b"),
            ("a", "b&c"),
            ("d", "e=f"),
        ]);
        assert_eq!(found, expected);
    }

    #[test]
    fn every_part_can_be_missing() {
        for (url, name, value) in [
            ("postgres://", "", ""),
            ("postgres:///?host=%2Ftmp", "host", "/tmp"),
            ("postgres://:5433", "port", "5433"),
            ("postgres:///d", "dbname", "d"),
        ] {
            let mut found = of(url).unwrap();
            found.retain(|(_, value)| !value.is_empty());
            let expected = pairs(&[(name, value)]);
            assert_eq!(found, expected[usize::from(name.is_empty())..], "{url}");
        }
    }

    #[test]
    fn a_password_may_hold_any_character_that_libpq_allows() {
        for password in ["hun#ter2", "hun?ter2", "hun:ter2", "hun&t=r2", "%ff"] {
            let found = of(&format!("postgres://me:{password}@host/db?a=b")).unwrap();
            assert_eq!(found[1].1, decoded(password).unwrap());
            assert_eq!((&*found[2].1, &*found[4].1), (&b"host"[..], &b"db"[..]));
        }
    }

    #[test]
    fn a_url_that_may_split_a_secret_is_refused_without_repeating_it() {
        for url in [
            "postgres://me:hun@ter2@host/db",
            "postgres://me:hun/ter2@host/db",
            "postgres://host/db?password=hun@ter2",
            "postgres://me:x@host/db?password=hun@ter2",
            "postgres://me:hun%ter2@host/db",
            "postgres://me:hun%2",
            "postgres://me:x@host/db?hunter2",
            "postgres://me:x@[hunter2/db",
            "postgres://me:x@[::1]hunter2/db",
            "postgres://hunter2%ff@host/db",
            "postgres://host/db?password=hunter2%00",
            "hunter2",
            "host=x password=hunter2",
            "postgres:hunter2",
        ] {
            let error = of(url).unwrap_err();
            assert!(
                !error.contains("hun") && !error.contains("ter2"),
                "{url}: {error}"
            );
        }
    }
}
