//! Which addresses and names mean this machine: one rule for what a server listens on, for the `Host` of a request, and
//! for the servers that commands call. Resolving names is left to the callers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Reports whether the address reaches only this machine: a loopback address, also IPv4 written as IPv6
/// (`::ffff:127.0.0.1`, RFC 4291 section 2.5.5.2).
pub fn is_this_machine(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Reports whether the host of a URL means this machine: `localhost` in any case, or a loopback address, with or
/// without the brackets of IPv6.
pub fn names_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || without_brackets(host).parse().is_ok_and(is_this_machine)
}

/// Returns a host of a URL without the brackets of IPv6.
pub fn without_brackets(host: &str) -> &str {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host)
}

/// Reports whether a URL leads to this machine.
pub fn url_names_this_machine(url: &str) -> bool {
    let url = reqwest::Url::parse(url).ok();
    url.as_ref()
        .and_then(reqwest::Url::host_str)
        .is_some_and(names_this_machine)
}

/// Where a server that listens on `listen` is reached from its own machine: an address for everybody is none to call.
pub fn on_this_machine(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_however_it_is_written() {
        for local in [
            "localhost",
            "LocalHost",
            "127.0.0.1",
            "127.8.9.1",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
            "[::ffff:7f00:1]",
        ] {
            assert!(names_this_machine(local), "{local}");
        }
        for other in [
            "",
            "0.0.0.0",
            "::",
            "192.0.2.1",
            "::ffff:192.0.2.1",
            "::2",
            "127.1",
            "localhost.shop.example",
            "[localhost]",
            "[::1",
        ] {
            assert!(!names_this_machine(other), "{other}");
        }
    }
}
