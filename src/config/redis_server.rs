//! The Redis that `REDIS_URL` names. TLS parameters are those of redis-py's URLs; errors never show a secret.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, TlsCertificates};
use reqwest::Url;

use super::address_of;

/// Parameters with files in PEM.
const ROOTS: &str = "ssl_ca_certs";
const CERTIFICATE: &str = "ssl_certfile";
const KEY: &str = "ssl_keyfile";
const TLS_PARAMETERS: [&str; 3] = [ROOTS, CERTIFICATE, KEY];
/// Parameter that the library reads.
const PROTOCOL: &str = "protocol";
/// Parameters that it reads of a socket only: the URL of a host has other places for them.
const SOCKET_PARAMETERS: [&str; 3] = ["db", "user", "pass"];
/// A connection without an answer for this long is given up, also while it only listens.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const SCHEMES: [&str; 7] = [
    "redis",
    "rediss",
    "valkey",
    "valkeys",
    "unix",
    "redis+unix",
    "valkey+unix",
];
/// Length of the prefix, which is part of every key.
const PREFIX_CHARS_MAX: usize = 100;

#[derive(Clone)]
pub struct RedisServer {
    pub client: Client,
    /// Scheme, host and port, or the socket.
    pub location: String,
    /// `ORDERLY_REDIS_PREFIX`.
    pub prefix: String,
}

impl RedisServer {
    pub fn parse(text: &str) -> Result<RedisServer, String> {
        const FORM: &str = "not a URL of the form redis://HOST, rediss://HOST or redis+unix:///PATH";
        let text = text.trim();
        let mut url = Url::parse(text).map_err(|_| FORM.to_owned())?;
        if url.scheme() == "redis-sentinel" {
            return Err("sentinels are not supported: name the address that follows the primary".to_owned());
        }
        if !SCHEMES.contains(&url.scheme()) {
            return Err(FORM.to_owned());
        }
        if url.fragment().is_some() {
            return Err(
                "has a part after `#`: a connection without a check of the certificate is not supported"
                    .to_owned(),
            );
        }
        let given: Vec<(String, String)> = url.query_pairs().map(owned).collect();
        let is_socket = url.scheme().ends_with("unix");
        for (name, _) in &given {
            check_parameter(name, is_socket)?;
        }
        let file = |name: &str| -> Result<Option<Vec<u8>>, String> {
            let Some((_, path)) = given.iter().find(|(given, _)| given == name) else {
                return Ok(None);
            };
            let read = std::fs::read(Path::new(path));
            read.map(Some)
                .map_err(|error| format!("cannot read the file of {name}: {error}"))
        };
        let certificates = TlsCertificates {
            client_tls: match (file(CERTIFICATE)?, file(KEY)?) {
                (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig {
                    client_cert,
                    client_key,
                }),
                (None, None) => None,
                _ => return Err(format!("needs both {CERTIFICATE} and {KEY}, or neither")),
            },
            root_cert: file(ROOTS)?,
        };
        keep_known(&mut url, &given);
        let info = url
            .as_str()
            .into_connection_info()
            .map_err(|error| error.category().to_owned())?;
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let has_files = given.iter().any(|(name, _)| TLS_PARAMETERS.contains(&&**name));
        if has_files && !is_tls {
            return Err("has TLS parameters without TLS: write rediss://".to_owned());
        }
        let keepalive = TcpKeepalive::new()
            .with_time(SILENCE_MAX / 2)
            .with_interval(SILENCE_MAX / 4);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(SILENCE_MAX);
        let info = info.set_tcp_settings(tcp);
        let location = match info.addr() {
            ConnectionAddr::Unix(path) => path.display().to_string(),
            _ => address_of(text),
        };
        let client = if is_tls {
            Client::build_with_tls(info, certificates)
        } else {
            Client::open(info)
        };
        let client = client.map_err(|error| error.category().to_owned())?;
        Ok(RedisServer {
            client,
            location,
            prefix: String::new(),
        })
    }
}

/// Parses the prefix of the keys.
pub fn prefix(text: &str) -> Result<String, String> {
    let fits = (1..=PREFIX_CHARS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"{}".contains(&byte));
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must have 1 to {PREFIX_CHARS_MAX} visible ASCII characters without blanks and braces"
        ))
    }
}

/// The name may be part of a secret that was not escaped, and is shown only if it looks like a name.
fn check_parameter(name: &str, is_socket: bool) -> Result<(), String> {
    if TLS_PARAMETERS.contains(&name) || name == PROTOCOL {
        return Ok(());
    }
    if SOCKET_PARAMETERS.contains(&name) {
        return if is_socket {
            Ok(())
        } else {
            Err(format!(
                "has the parameter `{name}`, which is for sockets: write redis://USER:PASSWORD@HOST/DATABASE"
            ))
        };
    }
    let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    Err(if is_name {
        format!("has the unknown parameter `{name}`")
    } else {
        "has an unknown parameter; in a password `?` is written %3F, `#` %23, `/` %2F and `@` %40".to_owned()
    })
}

fn owned((name, value): (Cow<'_, str>, Cow<'_, str>)) -> (String, String) {
    (name.into_owned(), value.into_owned())
}

/// Removes the parameters that the library does not know.
fn keep_known(url: &mut Url, given: &[(String, String)]) {
    let kept: Vec<_> = given
        .iter()
        .filter(|(name, _)| !TLS_PARAMETERS.contains(&&**name))
        .collect();
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisServer")
            .field("location", &self.location)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host_a_socket_or_tls() {
        for (url, location) in [
            ("redis://host", "redis://host"),
            ("redis://me:hunter2@host:6380/3", "redis://host:6380"),
            ("rediss://:hunter2@host/0", "rediss://host"),
            ("redis+unix:///run/redis.sock?db=1", "/run/redis.sock"),
        ] {
            let server = RedisServer::parse(url).unwrap();
            assert_eq!(server.location, location);
            assert!(!format!("{server:?}").contains("hunter2"));
        }
    }

    #[test]
    fn an_unsupported_url_is_refused_without_its_secret() {
        for (url, problem) in [
            ("hunter2", "of the form redis://"),
            ("http://hunter2@host", "of the form redis://"),
            ("redis-sentinel://:hunter2@host/name", "sentinels"),
            ("rediss://:hunter2@host#insecure", "without a check"),
            ("redis://:hunter2@host?hunter=2", "unknown parameter `hunter`"),
            ("redis://me:123?hunter2@host", "unknown parameter; in a password"),
            ("redis://host?pass=hunter2", "for sockets"),
            ("rediss://:hunter2@host?ssl_certfile=/dev/null", "both"),
            ("rediss://:hunter2@host?ssl_ca_certs=/nowhere", "cannot read"),
            ("redis://:hunter2@host?ssl_ca_certs=/dev/null", "without TLS"),
        ] {
            let error = RedisServer::parse(url).unwrap_err();
            assert!(error.contains(problem) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_prefix_fits_into_every_key() {
        assert_eq!(prefix("shop:1").as_deref(), Ok("shop:1"));
        for text in ["", "a b", "{a}", "ä", &"a".repeat(101)] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }
}
