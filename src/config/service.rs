//! The HTTP service that processes orders: its URL, timeouts and signing keys. `processor/http.rs` calls it.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;

use super::values::address_of;

/// Maximum number of signing keys: two, so that keys can be rotated.
const SIGNING_KEYS_MAX: usize = 2;
/// Standard Webhooks 1.0.0, "Signature scheme": 192 to 512 bits.
const SIGNING_KEY_BYTES_MIN: usize = 24;
const SIGNING_KEY_BYTES_MAX: usize = 64;
const SIGNING_KEY_PREFIX: &str = "whsec_";

/// Settings of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpService {
    pub url: ServiceUrl,
    /// Keys that sign deliveries; empty for unsigned deliveries.
    pub signing_keys: Vec<SigningKey>,
    /// Maximum time to connect: name, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Maximum time until the head of an answer, connecting included.
    pub response_timeout: Duration,
}

/// An `http` or `https` URL. Display shows only scheme, host and port; the rest may hold a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceUrl {
    url: Url,
    shown: String,
}

impl ServiceUrl {
    /// Parses a URL. The error never shows the text, which may be a misplaced password.
    pub fn parse(text: &str) -> Result<ServiceUrl, String> {
        let form = || "not a URL of the form http://HOST/PATH or https://HOST/PATH".to_owned();
        let rest = ["http://", "https://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        // Browsers take `https:///path` as a host; here it is more likely a mistake.
        let plain = rest.is_some_and(|rest| !rest.starts_with(['/', '\\']));
        let no_blanks = !text.contains(|character: char| character.is_whitespace() || character.is_control());
        let url = Url::parse(text).ok().filter(|_| plain && no_blanks);
        let url = url.filter(Url::has_host).ok_or_else(form)?;
        if url.fragment().is_some() {
            return Err("must not have a fragment: what follows a # is never sent".to_owned());
        }
        Ok(ServiceUrl {
            url,
            shown: address_of(text),
        })
    }

    /// Returns the URL to call, with its secrets.
    pub fn expose(&self) -> &Url {
        &self.url
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl fmt::Debug for ServiceUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

/// A secret of Standard Webhooks shared with the service.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// Parses one or two texts of the form `whsec_BASE64`, separated by blanks. The error never shows the text.
    pub fn parse_all(text: &str) -> Result<Vec<SigningKey>, String> {
        let keys: Vec<SigningKey> = text
            .split_whitespace()
            .map(SigningKey::parse)
            .collect::<Option<_>>()
            .ok_or_else(|| {
                format!(
                    "must be `{SIGNING_KEY_PREFIX}` and the base64 of {SIGNING_KEY_BYTES_MIN} to {SIGNING_KEY_BYTES_MAX} random \
                     bytes, for example from {SIGNING_KEY_PREFIX}$(openssl rand -base64 32)"
                )
            })?;
        if keys.is_empty() || keys.len() > SIGNING_KEYS_MAX {
            return Err(format!(
                "must be 1 to {SIGNING_KEYS_MAX} secrets, separated by blanks"
            ));
        }
        Ok(keys)
    }

    fn parse(text: &str) -> Option<SigningKey> {
        let bytes = STANDARD.decode(text.strip_prefix(SIGNING_KEY_PREFIX)?).ok()?;
        let fits = (SIGNING_KEY_BYTES_MIN..=SIGNING_KEY_BYTES_MAX).contains(&bytes.len());
        fits.then_some(SigningKey(bytes))
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_url_must_be_complete_and_callable() {
        for url in [
            "http://127.0.0.1:8080",
            "https://shop.example/orders?tenant=7",
            "http://[::1]:8080/a",
        ] {
            assert!(ServiceUrl::parse(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "shop.example",
            "ftp://shop.example",
            "HTTP:shop.example",
            "http://",
            "http:///orders",
            "http:shop.example",
            "http://shop.example:99999/",
            "http://shop.example/a b",
            "http://shop.example/\n",
            "http://shop.example/#hunter2",
            "http://me:hunter2",
        ] {
            let error = ServiceUrl::parse(url).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_sent_but_never_shown() {
        let url = ServiceUrl::parse("https://me:hunter2@shop.example/hunter2?code=hunter2").unwrap();
        assert_eq!(url.expose().password(), Some("hunter2"));
        assert_eq!(url.to_string(), "https://shop.example");
        assert!(!format!("{url:?}").contains("hunter2"));
    }

    #[test]
    fn one_or_two_keys_of_the_right_length_are_accepted() {
        let secret = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        let count = |text: &str| SigningKey::parse_all(text).map(|keys| keys.len());
        assert_eq!(count(&secret(24)), Ok(1));
        assert_eq!(count(&format!("{}\n {}\n", secret(24), secret(64))), Ok(2));
        let three = [secret(24), secret(25), secret(26)].join(" ");
        for text in [
            "",
            " ",
            &three,
            &secret(23),
            &secret(65),
            &STANDARD.encode([7; 32]),
            "whsec_",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!",
        ] {
            let error = count(text).unwrap_err();
            assert!(!error.contains("MfKQ"), "{error}");
        }
        let keys = SigningKey::parse_all(&secret(24)).unwrap();
        assert_eq!(format!("{keys:?}"), "[[secret]]");
    }
}
