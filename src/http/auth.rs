//! Access checks: the API key, and protection against requests that a browser sends for another site's page.

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::problem::{Problem, ProblemType};
use crate::config::{Secret, names_this_machine};

/// Digest of the API key. Digests have equal lengths, so a comparison reveals nothing about the key, not even its
/// length.
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    pub fn of(secret: &Secret) -> KeyDigest {
        KeyDigest(Sha256::digest(secret.expose()).into())
    }

    /// Admits a request with exactly one `Authorization: Bearer KEY` (RFC 6750).
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let refuse = |detail| Err(Problem::new(ProblemType::Unauthorized, detail));
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else {
            return refuse("send the API key as Authorization: Bearer");
        };
        let scheme_and_key = value.as_bytes().split_at_checked("Bearer ".len());
        let Some((_, key)) = scheme_and_key.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        else {
            return refuse("send the API key as Authorization: Bearer");
        };
        let digest: [u8; 32] = Sha256::digest(key.trim_ascii()).into();
        if bool::from(digest.ct_eq(&self.0)) {
            Ok(())
        } else {
            refuse("the API key is wrong")
        }
    }
}

/// Refuses a change that a browser requests for another site's page, by the rule of Go 1.25's
/// `http.CrossOriginProtection` (Valsorda, "A modern approach to preventing CSRF in Go", 2025). Browsers name the
/// origin of a request; other clients send neither header and pass.
pub fn refuse_cross_site(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let same_site = match (headers.get("sec-fetch-site"), headers.get(ORIGIN)) {
        (Some(site), _) => matches!(site.as_bytes(), b"same-origin" | b"none"),
        (None, None) => true,
        // The browser is too old to send `Sec-Fetch-Site`.
        (None, Some(origin)) => {
            let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            authority.is_some_and(|(_, authority)| Some(authority) == host)
        }
    };
    if same_site {
        return Ok(());
    }
    Err(Problem::new(
        ProblemType::CrossSite,
        "a page of another site sent this request; nothing was changed",
    ))
}

/// Refuses a WebSocket that a page of another site requests. A browser lets every page open a WebSocket anywhere and
/// read its messages; its `Origin` names the page's site (RFC 6455 section 10.2). Other clients send no `Origin`.
pub fn require_own_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let own = match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => is_own(origin, headers),
        (Some(_), Some(_)) => false,
    };
    if own {
        return Ok(());
    }
    Err(Problem::new(
        ProblemType::CrossSite,
        "a page of another site asked for this connection",
    ))
}

/// Reports whether the origin has the name and port that the request was sent to. The scheme may be that of a proxy in
/// front.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let (Ok(origin), Ok(host)) = (origin.to_str(), host.to_str()) else {
        return false;
    };
    let (authority, default_port) = match origin.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (rest, 80),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (rest, 443),
        Some(_) | None => return false,
    };
    let place = |authority: &str| name_and_port(authority, default_port);
    place(authority).is_some_and(|own| Some(own) == place(host))
}

/// Splits an authority into name and port; `None` if it has a user, a path or an invalid port.
fn name_and_port(authority: &str, default_port: u16) -> Option<(String, u16)> {
    let parsed = Authority::try_from(authority).ok()?;
    let name = parsed.host();
    let port = match authority.strip_prefix(name)? {
        "" => default_port,
        rest => {
            let digits = rest.strip_prefix(':')?;
            let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| only_digits)?
        }
    };
    Some((name.to_ascii_lowercase(), port))
}

/// Refuses a request whose `Host` does not name this machine. A browser sends the name from the page's address, and a
/// page can point its own name at this machine ("DNS rebinding"); its requests then look as if they came from the
/// server's own page. Requests without `Host` do not come from browsers. If the target is a whole URL, its name must be
/// local too (RFC 9112 section 3.2.2).
pub fn require_local_name(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let target_is_local = uri.host().is_none_or(names_this_machine);
    if target_is_local && headers.get_all(HOST).iter().all(is_local) {
        return Ok(());
    }
    Err(Problem::new(
        ProblemType::CrossSite,
        "without an API key this server answers only requests whose Host is localhost or a loopback address; nothing was \
         changed. A proxy in front must forward the Host of its client (nginx: proxy_set_header Host $http_host), and then \
         the server needs an ORDERLY_API_KEY",
    ))
}

/// Reports whether the value of `Host` names this machine, with or without a port.
fn is_local(host: &HeaderValue) -> bool {
    Authority::try_from(host.as_bytes()).is_ok_and(|authority| names_this_machine(authority.host()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_the_right_key_is_admitted() {
        let key = KeyDigest::of(&Secret::new("s3cret".into()));
        for good in ["Bearer s3cret", "bearer s3cret", "Bearer  s3cret"] {
            assert!(key.admit(&headers(&[("authorization", good)])).is_ok(), "{good}");
        }
        for bad in [
            &[][..],
            &[("authorization", "s3cret")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer s3cre")],
            &[("authorization", "Bearer s3crets")],
            &[("authorization", "Basic s3cret")],
            &[("authorization", "Bearer x"), ("authorization", "Bearer s3cret")],
        ] {
            assert!(key.admit(&headers(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_this_machine_has_a_local_name() {
        let path = Uri::from_static("/orders");
        let passes = |host| require_local_name(&path, &headers(&[("host", host)])).is_ok();
        for local in [
            "localhost",
            "LocalHost:5000",
            "127.0.0.1",
            "127.0.0.1:5000",
            "127.8.9.1",
            "[::1]",
            "[::1]:5000",
            "[::ffff:127.0.0.1]:5000",
        ] {
            assert!(passes(local), "{local}");
        }
        for other in [
            "",
            "shop.example:5000",
            "localhost.shop.example",
            "127.0.0.1.shop.example",
            "127.1",
            "192.0.2.1:5000",
            "0.0.0.0",
            "[::2]",
            "localhost, shop.example",
        ] {
            assert!(!passes(other), "{other}");
        }
        assert!(require_local_name(&path, &HeaderMap::new()).is_ok());
        let both = headers(&[("host", "localhost"), ("host", "shop.example")]);
        assert!(require_local_name(&path, &both).is_err());
        let local = headers(&[("host", "localhost")]);
        let whole = |uri| require_local_name(&Uri::from_static(uri), &local).is_ok();
        assert!(whole("http://127.0.0.1:5000/orders"));
        assert!(!whole("http://shop.example/orders"));
    }

    #[test]
    fn only_pages_of_this_server_open_a_websocket() {
        let passes = |pairs: &[_]| require_own_origin(&headers(pairs)).is_ok();
        assert!(passes(&[("host", "127.0.0.1:5000")]));
        for (origin, host) in [
            ("http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("HTTP://LocalHost:5000", "localhost:5000"),
            ("http://shop.example", "shop.example:80"),
            ("http://shop.example:80", "shop.example"),
            ("https://shop.example", "shop.example"),
            ("https://shop.example", "shop.example:443"),
            ("http://[::1]:5000", "[::1]:5000"),
        ] {
            assert!(passes(&[("origin", origin), ("host", host)]), "{origin} {host}");
        }
        for (origin, host) in [
            ("null", "shop.example"),
            ("", "shop.example"),
            ("http://", ""),
            ("shop.example", "shop.example"),
            ("http://other.example", "shop.example"),
            ("http://shop.example.evil.example", "shop.example"),
            ("http://evilshop.example", "shop.example"),
            ("http://shop.example@evil.example", "shop.example"),
            ("http://evil.example@shop.example", "shop.example"),
            ("http://shop.example/", "shop.example"),
            ("http://shop.example:5001", "shop.example:5000"),
            ("http://shop.example:5000", "shop.example"),
            ("http://shop.example:+80", "shop.example"),
            ("https://shop.example:80", "shop.example"),
            ("http://shop.example:443", "shop.example"),
            ("http://shop.example:99999", "shop.example:99999"),
            ("chrome-extension://shop.example", "shop.example"),
            ("http://localhost:5000", "127.0.0.1:5000"),
        ] {
            assert!(!passes(&[("origin", origin), ("host", host)]), "{origin} {host}");
        }
        let own = "http://shop.example";
        assert!(!passes(&[("origin", own)]), "without a host");
        assert!(!passes(&[
            ("origin", own),
            ("origin", own),
            ("host", "shop.example")
        ]));
        assert!(!passes(&[
            ("origin", own),
            ("host", "shop.example"),
            ("host", "other.example")
        ]));
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let passes = |method: Method, pairs: &[_]| refuse_cross_site(&method, &headers(pairs)).is_ok();
        assert!(passes(Method::POST, &[]));
        assert!(passes(Method::POST, &[("sec-fetch-site", "same-origin")]));
        assert!(passes(Method::POST, &[("sec-fetch-site", "none")]));
        assert!(passes(Method::GET, &[("sec-fetch-site", "cross-site")]));
        assert!(passes(
            Method::POST,
            &[("origin", "http://a.example:5000"), ("host", "a.example:5000")]
        ));
        assert!(!passes(Method::POST, &[("sec-fetch-site", "cross-site")]));
        assert!(!passes(Method::POST, &[("sec-fetch-site", "same-site")]));
        assert!(!passes(
            Method::POST,
            &[("origin", "null"), ("host", "a.example")]
        ));
        assert!(!passes(
            Method::POST,
            &[("origin", "http://b.example"), ("host", "a.example")]
        ));
    }
}
