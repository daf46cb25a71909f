//! Checks of a request's head that HTTP/1.1 demands and hyper leaves to its user: one well-formed `Host` (RFC 9112
//! section 3.2), no transfer coding but `chunked` (section 6.1). `auth` decides which client may call, by which name.

use axum::extract::Request;
use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Version};

use super::problem::{Problem, ProblemType};

/// Refuses a head that another program on the way could read differently.
pub fn check<B>(request: &Request<B>) -> Result<(), Problem> {
    check_host(request.version(), request.headers())?;
    check_transfer_coding(request.headers())
}

fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(Problem::bad_request(
            "the Host header is not a host with an optional port",
        )),
        (Some(_), Some(_)) => Err(Problem::bad_request("there is more than one Host header")),
        // HTTP/1.0 has no `Host`.
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => Err(Problem::bad_request("HTTP/1.1 requires a Host header")),
    }
}

/// Matches `uri-host [ ":" port ]`; the host of an `http` URL is not empty (RFC 9110 section 4.2.1).
fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let Ok(authority) = Authority::try_from(text) else {
        return false;
    };
    // A user would come before the host.
    let Some(rest) = text.strip_prefix(authority.host()) else {
        return false;
    };
    let port = rest.strip_prefix(':').unwrap_or(rest);
    !authority.host().is_empty() && (port.is_empty() || port.parse::<u16>().is_ok()) && !port.starts_with('+')
}

fn check_transfer_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), _) => Err(Problem::new(
            ProblemType::TransferCoding,
            "the only accepted transfer coding is chunked, once",
        )),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn checked(version: Version, headers: &[(&'static str, &'static str)]) -> Option<ProblemType> {
        let mut request = Request::new(Body::empty());
        *request.version_mut() = version;
        for (name, value) in headers {
            request
                .headers_mut()
                .append(*name, HeaderValue::from_static(value));
        }
        check(&request).err().map(|problem| problem.kind)
    }

    #[test]
    fn a_request_names_one_host() {
        let host = |host| checked(Version::HTTP_11, &[("host", host)]);
        for good in [
            "localhost",
            "shop.example:5000",
            "shop.example:",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:5000",
            "my_upstream",
        ] {
            assert_eq!(host(good), None, "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a/b",
            "http://a",
            "user@shop.example",
            "shop.example:x",
            "shop.example:+80",
            "shop.example:99999",
            "a:1:2",
            "[::1",
            "localhost, shop.example",
        ] {
            assert_eq!(host(bad), Some(ProblemType::BadRequest), "{bad}");
        }
        let two = [("host", "a"), ("host", "a")];
        assert_eq!(checked(Version::HTTP_11, &[]), Some(ProblemType::BadRequest));
        assert_eq!(checked(Version::HTTP_11, &two), Some(ProblemType::BadRequest));
        assert_eq!(checked(Version::HTTP_10, &[]), None);
        assert_eq!(checked(Version::HTTP_10, &two), Some(ProblemType::BadRequest));
    }

    #[test]
    fn only_chunked_is_a_transfer_coding() {
        let coded = |coding| checked(Version::HTTP_11, &[("host", "a"), ("transfer-encoding", coding)]);
        assert_eq!(coded("chunked"), None);
        assert_eq!(coded("Chunked "), None);
        for bad in [
            "gzip, chunked",
            "chunked, chunked",
            "identity",
            "gzip",
            "",
            "chunked;q=1",
        ] {
            assert_eq!(coded(bad), Some(ProblemType::TransferCoding), "{bad}");
        }
        let lines = [
            ("host", "a"),
            ("transfer-encoding", "gzip"),
            ("transfer-encoding", "chunked"),
        ];
        assert_eq!(
            checked(Version::HTTP_11, &lines),
            Some(ProblemType::TransferCoding)
        );
    }
}
