//! Splits a PostgreSQL URL as libpq does: user, password, hosts, database, parameters, all decoded. `postgres_url.rs`
//! interprets the parameters. No error repeats the text, which may be secret.

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// Decoded parts; empty ones are not set.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub user: String,
    /// Raw bytes, as the server takes a password.
    pub password: Vec<u8>,
    /// As many as `ports`. A host may be empty if a parameter names it.
    pub hosts: Vec<String>,
    /// Empty for the default port.
    pub ports: Vec<String>,
    pub database: String,
    pub parameters: Vec<(String, Vec<u8>)>,
}

impl Parts {
    pub fn of(url: &str) -> Result<Parts, String> {
        let rest = SCHEMES
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme))
            .ok_or("not a URL of the form postgres://USER:PASSWORD@HOST/DATABASE")?;
        let (credentials, rest) = split_credentials(rest)?;
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (hosts, ports) = hosts_and_ports(authority)?;
        Ok(Parts {
            user: decoded_text(user)?,
            password: decoded(password)?,
            hosts,
            ports,
            database: decoded_text(database)?,
            parameters: split_parameters(parameters)?,
        })
    }
}

impl Parts {
    /// Returns all parts as parameters with libpq's names; the last of a name wins.
    pub fn into_parameters(self) -> Vec<(String, Vec<u8>)> {
        let named = |name: &str, value: Vec<u8>| (name.to_owned(), value);
        let mut parameters = vec![
            named("user", self.user.into_bytes()),
            named("password", self.password),
            named("host", self.hosts.join(",").into_bytes()),
            named("port", self.ports.join(",").into_bytes()),
            named("dbname", self.database.into_bytes()),
        ];
        // JDBC's spelling, which libpq accepts.
        parameters.extend(self.parameters.into_iter().map(|parameter| match parameter {
            (name, value) if name == "ssl" && value == b"true" => named("sslmode", b"require".to_vec()),
            parameter => parameter,
        }));
        parameters
    }
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

fn hosts_and_ports(authority: &str) -> Result<(Vec<String>, Vec<String>), String> {
    if authority.is_empty() {
        return Ok(Default::default());
    }
    let pairs: Vec<(String, String)> = authority
        .split(',')
        .map(|pair| {
            let (host, port) = split_port(pair)?;
            Ok((decoded_text(host)?, decoded_text(port)?))
        })
        .collect::<Result<_, String>>()?;
    Ok(pairs.into_iter().unzip())
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

fn split_parameters(text: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair
                .split_once('=')
                .ok_or("a parameter after the `?` is not of the form NAME=VALUE")?;
            Ok((decoded_text(name)?, decoded(value)?))
        })
        .collect()
}

fn decoded_text(text: &str) -> Result<String, String> {
    String::from_utf8(decoded(text)?).map_err(|_| "a part other than the password is not UTF-8".to_owned())
}

/// Decodes percent-encoding (RFC 3986, section 2.1). A `+` is literal.
fn decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()].map(|digit| digit.and_then(hexadecimal));
        match digits {
            // The protocol ends its strings with a zero byte.
            [Some(0), Some(0)] => return Err("%00 is not allowed".to_owned()),
            [Some(high), Some(low)] => bytes.push(high << 4 | low),
            [_, _] => return Err("a literal `%` must be written as %25".to_owned()),
        }
    }
    Ok(bytes)
}

fn hexadecimal(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(parameters: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
        parameters.iter().map(pair).collect()
    }

    #[test]
    fn every_part_is_found_and_decoded() {
        let parts =
            Parts::of("postgresql://m%C3%A9:p%40ss%2Fw+rd%25@h1:1,[::1]:2,h3/d%20b?a=b%26c&&d=e=f&").unwrap();
        let expected = Parts {
            user: "mé".to_owned(),
            password: b"p@ss/w+rd%".to_vec(),
            hosts: ["h1", "::1", "h3"].map(str::to_owned).to_vec(),
            ports: ["1", "2", ""].map(str::to_owned).to_vec(),
            database: "d b".to_owned(),
            parameters: pairs(&[("a", "b&c"), ("d", "e=f")]),
        };
        assert_eq!(parts, expected);
    }

    #[test]
    fn every_part_can_be_missing() {
        assert_eq!(Parts::of("postgres://").unwrap(), Parts::default());
        let parts = Parts::of("postgres:///?host=%2Ftmp").unwrap();
        assert_eq!(parts.parameters, pairs(&[("host", "/tmp")]));
        let parts = Parts::of("postgres://:5433").unwrap();
        assert_eq!((&*parts.hosts[0], &*parts.ports[0]), ("", "5433"));
    }

    #[test]
    fn a_password_may_hold_any_character_that_libpq_allows() {
        for password in ["hun#ter2", "hun?ter2", "hun:ter2", "hun&t=r2", "%ff"] {
            let parts = Parts::of(&format!("postgres://me:{password}@host/db?a=b")).unwrap();
            assert_eq!(parts.password, decoded(password).unwrap());
            assert_eq!((&*parts.hosts[0], &*parts.database), ("host", "db"));
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
            let error = Parts::of(url).unwrap_err();
            assert!(
                !error.contains("hun") && !error.contains("ter2"),
                "{url}: {error}"
            );
        }
    }
}
