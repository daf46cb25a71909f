//! What the parameters come to, and that nothing tells a secret.

use super::*;

const PASSWORD: &str = "hunter2";

#[track_caller]
fn parsed(url: &str) -> PostgresUrl {
    let (url, warnings) = PostgresUrl::parse(url).unwrap();
    assert_eq!(warnings, [""; 0]);
    url
}

#[track_caller]
fn problem(url: &str) -> String {
    let problem = PostgresUrl::parse(url).unwrap_err();
    assert!(!problem.contains(PASSWORD), "{problem}");
    problem
}

fn tcp(names: &[&str]) -> Vec<Host> {
    names.iter().map(|name| Host::Tcp((*name).to_owned())).collect()
}

#[test]
fn urls_are_taken_as_they_are_handed_out() {
    let neon = parsed(
        "postgresql://me:hunter2@ep-a-1-pooler.c-2.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=require",
    );
    assert_eq!(neon.tls, TlsMode::Require);
    assert_eq!(neon.server.get_channel_binding(), ChannelBinding::Require);
    assert_eq!(neon.server.get_user(), Some("me"));
    assert_eq!(neon.server.get_password(), Some(PASSWORD.as_bytes()));
    assert_eq!(neon.server.get_dbname(), Some("neondb"));
    assert_eq!(
        neon.location,
        "postgres://ep-a-1-pooler.c-2.eu-central-1.aws.neon.tech:5432/neondb"
    );
    let by_endpoint = parsed("postgres://me:hunter2@192.0.2.1/neondb?options=endpoint%3Dep-a-1");
    assert_eq!(by_endpoint.server.get_options(), Some("endpoint=ep-a-1"));

    let render = parsed("postgresql://me:hunter2@dpg-abc-a/orders");
    assert_eq!(render.tls, TlsMode::Prefer);
    assert_eq!(render.server.get_ssl_mode(), SslMode::Prefer);
    assert_eq!(render.location, "postgres://dpg-abc-a:5432/orders");
}

#[test]
fn each_sslmode_means_what_libpq_means() {
    use {SslMode as Server, TlsMode as Tls};
    let system = Roots::System;
    let file = Roots::File(PathBuf::from("/etc/a b.pem"));
    for (parameters, tls, roots, server) in [
        ("", Tls::Prefer, &system, Server::Prefer),
        ("sslmode=disable", Tls::Disable, &system, Server::Disable),
        ("sslmode=prefer", Tls::Prefer, &system, Server::Prefer),
        ("sslmode=require", Tls::Require, &system, Server::Require),
        ("ssl=true", Tls::Require, &system, Server::Require),
        ("sslmode=verify-ca", Tls::VerifyCa, &system, Server::Require),
        ("sslmode=verify-full", Tls::VerifyFull, &system, Server::Require),
        (
            "sslmode=disable&sslmode=require",
            Tls::Require,
            &system,
            Server::Require,
        ),
        ("sslrootcert=system", Tls::VerifyFull, &system, Server::Require),
        (
            "sslrootcert=system&sslmode=verify-full",
            Tls::VerifyFull,
            &system,
            Server::Require,
        ),
        ("sslrootcert=/etc/a%20b.pem", Tls::Prefer, &file, Server::Prefer),
        (
            "sslrootcert=/etc/a%20b.pem&sslmode=require",
            Tls::VerifyCa,
            &file,
            Server::Require,
        ),
        (
            "sslmode=verify-ca&sslrootcert=/etc/a%20b.pem",
            Tls::VerifyCa,
            &file,
            Server::Require,
        ),
        (
            "sslmode=verify-full&sslrootcert=/etc/a%20b.pem",
            Tls::VerifyFull,
            &file,
            Server::Require,
        ),
        (
            "host=%2Frun%2Fpg&sslmode=verify-full",
            Tls::Disable,
            &system,
            Server::Disable,
        ),
        (
            "sslmode=require&sslnegotiation=direct",
            Tls::Require,
            &system,
            Server::Require,
        ),
    ] {
        let url = parsed(&format!("postgres://host/db?{parameters}"));
        assert_eq!((url.tls, &url.roots), (tls, roots), "{parameters}");
        assert_eq!(url.server.get_ssl_mode(), server, "{parameters}");
    }
    for mode in ["allow", "Require", "hunter2"] {
        assert_eq!(
            problem(&format!("postgres://host/db?sslmode={mode}")),
            "sslmode must be one of disable, prefer, require, verify-ca, verify-full"
        );
    }
    let weak = problem("postgres://host/db?sslmode=require&sslrootcert=system");
    assert_eq!(weak, "sslrootcert=system needs sslmode=verify-full");
    let direct = problem("postgres://host/db?sslnegotiation=direct");
    assert_eq!(direct, "sslnegotiation=direct needs sslmode=require or better");
}

#[test]
fn several_hosts_and_sockets_are_taken() {
    let several =
        parsed("postgres://h1:1,h2,[::1]:3/db?target_session_attrs=primary&load_balance_hosts=random");
    assert_eq!(several.server.get_hosts(), tcp(&["h1", "h2", "::1"]));
    assert_eq!(several.server.get_ports(), [1, 5432, 3]);
    assert_eq!(several.location, "postgres://h1:1,h2:5432,[::1]:3/db");
    let writable = several.server.get_target_session_attrs();
    assert_eq!(writable, TargetSessionAttrs::ReadWrite);

    let listed = parsed("postgres:///db?host=a,b&port=7");
    assert_eq!(listed.server.get_hosts(), tcp(&["a", "b"]));
    assert_eq!(listed.location, "postgres://a:7,b:7/db");

    for url in [
        "postgres:///db?host=/run/pg",
        "postgres://%2Frun%2Fpg/db",
        "postgres://elsewhere/db?host=/run/pg",
    ] {
        let socket = parsed(url);
        assert_eq!(socket.server.get_hosts(), [Host::Unix("/run/pg".into())], "{url}");
        assert_eq!(socket.location, "postgres://%2Frun%2Fpg:5432/db");
    }

    let addressed = parsed("postgres://name:5/db?hostaddr=192.0.2.1");
    assert_eq!(addressed.server.get_hosts(), tcp(&["name"]));
    assert_eq!(addressed.server.get_hostaddrs().len(), 1);
    let nameless = parsed("postgres:///db?hostaddr=192.0.2.1");
    assert_eq!(nameless.location, "postgres://192.0.2.1:5432/db");
}

#[test]
fn what_leads_nowhere_is_refused() {
    for (url, because) in [
        ("postgres://", "names no host"),
        ("postgres:///db", "names no host"),
        ("postgres://a,,b/db", "one of the hosts is empty"),
        ("postgres://a:hunter2/db", "the port is not a number"),
        ("postgres://a:0/db", "the port is not a number"),
        ("postgres://a:65536/db", "the port is not a number"),
        ("postgres:///db?host=a,b,c&port=1,2", "one port, or as many"),
        ("postgres://a,b/db?hostaddr=192.0.2.1", "as many addresses"),
        ("postgres://a/db?hostaddr=hunter2", "hostaddr must be"),
        (
            "postgres://a/db?connect_timeout=hunter2",
            "connect_timeout must be",
        ),
        (
            "postgres://a/db?channel_binding=hunter2",
            "disable, prefer, require",
        ),
        (
            "postgres://a/db?target_session_attrs=standby",
            "any, read-write, primary",
        ),
        ("postgres://a/db?options=%ff", "not UTF-8"),
    ] {
        let problem = problem(url);
        assert!(problem.contains(because), "{url}: {problem}");
    }
}

#[test]
fn waits_have_limits_unless_the_url_sets_others() {
    let usual = parsed("postgres://host/db?connect_timeout=").server;
    assert_eq!(usual.get_application_name(), Some("orderly"));
    assert_eq!(usual.get_connect_timeout(), Some(&CONNECT_TIME));
    assert_eq!(usual.get_tcp_user_timeout(), Some(&UNCONFIRMED_TIME));
    assert_eq!(usual.get_keepalives_idle(), KEEPALIVE_IDLE);

    let set = parsed(
        "postgres://host/db?application_name=shop&connect_timeout=3&tcp_user_timeout=2500\
         &keepalives_idle=7&keepalives_interval=8&keepalives_count=9",
    );
    let set = set.server;
    assert_eq!(set.get_application_name(), Some("shop"));
    assert_eq!(set.get_connect_timeout(), Some(&Duration::from_secs(3)));
    assert_eq!(set.get_tcp_user_timeout(), Some(&Duration::from_millis(2500)));
    assert_eq!(set.get_keepalives_idle(), Duration::from_secs(7));
    assert_eq!(set.get_keepalives_interval(), Some(Duration::from_secs(8)));
    assert_eq!(set.get_keepalives_retries(), Some(9));

    let none = parsed("postgres://host/db?connect_timeout=0&tcp_user_timeout=-1&keepalives=0").server;
    assert_eq!(
        (none.get_connect_timeout(), none.get_tcp_user_timeout()),
        (None, None)
    );
    assert!(!none.get_keepalives());
}

#[test]
fn an_unknown_parameter_is_named_once_and_its_value_never() {
    let (url, warnings) = PostgresUrl::parse(
        "postgres://host/db?pgbouncer=hunter2&sslcert=hunter2&pgbouncer=1&sslmode=require&%0Ax=hunter2&ssl=false",
    )
    .unwrap();
    assert_eq!(url.tls, TlsMode::Require);
    assert_eq!(
        warnings,
        [
            "a parameter that is no name of one is ignored",
            "the parameter `pgbouncer` is not known and is ignored",
            "the parameter `ssl` is not known and is ignored",
            "the parameter `sslcert` is not known and is ignored",
        ]
    );
}

#[test]
fn a_pooler_is_known_by_its_name_or_its_port() {
    for (authority, pooled) in [
        ("ep-a-1-pooler.eu-central-1.aws.neon.tech", true),
        ("db.example.com:6543", true),
        ("localhost:6432", true),
        ("ep-a-1.eu-central-1.aws.neon.tech", false),
        ("localhost", false),
    ] {
        let url = parsed(&format!("postgres://me:hunter2@{authority}/db"));
        assert_eq!(url.looks_pooled(), pooled, "{authority}");
    }
}

#[test]
fn nothing_shows_the_password() {
    for url in [
        "postgres://me:hunter2@host/db",
        "postgres://host/db?user=me&password=hunter2",
        "postgres://me:x@host/db?password=hunter2",
    ] {
        let url = parsed(url);
        assert_eq!(url.server.get_password(), Some(PASSWORD.as_bytes()));
        let shown = format!("{url:?} {}", url.location);
        // Nor as the numbers of its bytes.
        for secret in [PASSWORD, "104, 117, 110"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(!url.location.contains("me"), "{}", url.location);
    }
}
