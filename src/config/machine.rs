//! Rules for which addresses and names mean this machine, shared by the listener, the check of the `Host` header and
//! client commands. Callers resolve names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Reports whether the address is a loopback address, including IPv4 written as IPv6 (`::ffff:127.0.0.1`, RFC 4291
/// section 2.5.5.2).
pub fn is_this_machine(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Reports whether the host of a URL is this machine: `localhost` in any case, or a loopback address, with or without
/// IPv6 brackets.
pub fn names_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || without_brackets(host).parse().is_ok_and(is_this_machine)
}

/// Returns the host of a URL without IPv6 brackets.
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

/// Returns the address to call a server on this machine that listens on `listen`: loopback for an unspecified address.
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
    fn loopback_is_this_machine_in_every_notation() {
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
