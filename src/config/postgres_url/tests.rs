//! Effects of the parameters; no output shows a secret.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, SslMode};

use super::reader::{CONNECT_TIME, CONNECT_TIME_OF_SEVERAL, KEEPALIVE_IDLE, UNCONFIRMED_TIME};
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
fn urls_of_hosting_providers_are_accepted_unchanged() {
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
fn each_sslmode_means_the_same_as_in_libpq() {
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
    for mode in ["Require", "hunter2"] {
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
fn several_hosts_and_sockets_are_accepted() {
    let several =
        parsed("postgres://h1:1,h2,[::1]:3/db?target_session_attrs=primary&load_balance_hosts=random");
    assert_eq!(several.config().get_hosts(), tcp(&["h1", "h2", "::1"]));
    assert_eq!(several.config().get_ports(), [1, 5432, 3]);
    assert_eq!(several.location, "postgres://h1:1,h2:5432,[::1]:3/db");
    assert_eq!(several.session, Some(Session::Primary));
    assert!(several.in_random_order);

    let listed = parsed("postgres:///db?host=a,b&port=7");
    assert_eq!(listed.config().get_hosts(), tcp(&["a", "b"]));
    assert_eq!(listed.location, "postgres://a:7,b:7/db");

    for url in [
        "postgres:///db?host=/run/pg",
        "postgres://%2Frun%2Fpg/db",
        "postgres://elsewhere/db?host=/run/pg",
    ] {
        let socket = parsed(url);
        assert_eq!(
            socket.config().get_hosts(),
            [Host::Unix("/run/pg".into())],
            "{url}"
        );
        assert_eq!(socket.location, "postgres://%2Frun%2Fpg:5432/db");
    }

    let addressed = parsed("postgres://name:5/db?hostaddr=192.0.2.1");
    assert_eq!(addressed.config().get_hosts(), tcp(&["name"]));
    assert_eq!(addressed.config().get_hostaddrs().len(), 1);
    let nameless = parsed("postgres:///db?hostaddr=192.0.2.1");
    assert_eq!(nameless.location, "postgres://192.0.2.1:5432/db");
}

#[test]
fn a_url_without_a_usable_server_is_refused() {
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
            "postgres://a/db?target_session_attrs=hunter2",
            "any, read-write, read-only, primary, standby, prefer-standby",
        ),
        ("postgres://a/db?options=%ff", "not UTF-8"),
    ] {
        let problem = problem(url);
        assert!(problem.contains(because), "{url}: {problem}");
    }
}

#[test]
fn timeouts_have_defaults_that_the_url_can_change() {
    let usual = parsed("postgres://host/db?connect_timeout=").server;
    assert_eq!(usual.get_application_name(), Some("orderly"));
    assert_eq!(usual.get_connect_timeout(), Some(&CONNECT_TIME));
    assert_eq!(usual.get_tcp_user_timeout(), Some(&UNCONFIRMED_TIME));
    assert_eq!(usual.get_keepalives_idle(), KEEPALIVE_IDLE);

    for (hosts, expected) in [("a", CONNECT_TIME), ("a,b", CONNECT_TIME_OF_SEVERAL)] {
        let url = parsed(&format!("postgres://{hosts}/db"));
        assert_eq!(url.connect_time_max, Some(expected), "{hosts}");
    }

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

/// Issue 15, point 3: a parameter that makes a connection more secure was ignored with a warning.
#[test]
fn a_parameter_that_would_be_ignored_is_refused_by_name() {
    for (parameters, because) in [
        (
            "sslcrl=hunter2",
            "`sslcrl` is not supported: lists of revoked certificates",
        ),
        (
            "require_auth=hunter2",
            "`require_auth` is not supported: channel_binding=require",
        ),
        ("krbsrvname=hunter2", "`krbsrvname` is not supported: GSSAPI"),
        (
            "sslpassword=hunter2",
            "`sslpassword` is not supported: decrypt the key",
        ),
        ("sslmode=allow", "sslmode=allow is not supported"),
        ("ssl=false", "`ssl` is not supported: use sslmode="),
        ("sslcertmode=require", "sslcertmode must be one of disable, allow"),
        ("sslcert=/hunter2", "sslcert needs sslkey"),
        ("sslkey=/hunter2", "sslkey needs sslcert"),
        (
            "ssl_max_protocol_version=TLSv1.1",
            "must be one of TLSv1.2, TLSv1.3",
        ),
        (
            "ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
            "is above ssl_max_protocol_version",
        ),
        ("gssencmode=require", "gssencmode must be one of disable, prefer"),
        ("client_encoding=LATIN1", "client_encoding must be one of UTF8"),
        ("replication=database", "replication must be one of false"),
        ("sslmod=hunter2", "`sslmod` is not known: did you mean `sslmode`?"),
        (
            "target_session_attr=hunter2",
            "did you mean `target_session_attrs`?",
        ),
        ("hunter2=x", "a parameter is not known"),
        ("%0Ax=hunter2", "a parameter is not known"),
    ] {
        let problem = problem(&format!("postgres://host/db?{parameters}"));
        assert!(problem.contains(because), "{parameters}: {problem}");
    }
}

#[test]
fn parameters_of_other_drivers_are_ignored_with_a_warning_each() {
    let url = "postgres://host/db?pgbouncer=hunter2&connection_limit=1&pgbouncer=1&sslmode=require";
    let (url, warnings) = PostgresUrl::parse(url).unwrap();
    assert_eq!(url.tls, TlsMode::Require);
    assert_eq!(
        warnings,
        [
            "the parameter `connection_limit` belongs to another driver and is ignored",
            "the parameter `pgbouncer` belongs to another driver and is ignored",
        ]
    );
}

#[test]
fn parameters_without_effect_here_are_accepted_as_in_libpq() {
    let url = parsed(
        "postgres://host/db?client_encoding=utf8&gssencmode=prefer&replication=off&sslcompression=1\
         &fallback_application_name=shop&sslsni=0&ssl_min_protocol_version=TLSv1.3&sslcert=/c&sslkey=/k",
    );
    assert_eq!(url.server.get_application_name(), Some("shop"));
    assert_eq!((url.sends_name, url.tls_versions), (false, TlsVersions::Only13));
    let identity = url.identity.expect("it is given");
    assert_eq!((identity.certificate, identity.key), ("/c".into(), "/k".into()));
    let named = parsed("postgres://host/db?application_name=a&fallback_application_name=b");
    assert_eq!(named.server.get_application_name(), Some("a"));
    let kept_back = parsed("postgres://host/db?sslcert=/c&sslkey=/k&sslcertmode=disable");
    assert_eq!(kept_back.identity, None);
}

#[test]
fn every_form_of_a_connection_string_reads_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services");
    let service =
        "[orders]\nhost=a,b\nport=1,2\ndbname=db\nuser=me\ntarget_session_attrs=any\nsslmode=require\n";
    std::fs::write(&file, service).unwrap();
    let services = ServiceFiles::of(Some(file), None, Some(folder.path().to_owned()));
    let expected = parsed("postgres://me@a:1,b:2/db?target_session_attrs=any&sslmode=require");
    for form in [
        "postgresql://a:1,b:2/?dbname=db&user=me&target_session_attrs=any&sslmode=require",
        "host=a,b port=1,2 dbname=db user='me' target_session_attrs = any sslmode=require",
        "service=orders",
        "postgres://?service=orders",
        "postgres:///db?service=orders",
        "service=orders user=me",
    ] {
        let (found, warnings) = PostgresUrl::parse_with(form, &services).unwrap();
        assert_eq!((&found, warnings.len()), (&expected, 0), "{form}");
    }
    let (other, _) = PostgresUrl::parse_with("postgres://c:3/?service=orders", &services).unwrap();
    assert_eq!(
        other.location, "postgres://c:3/db",
        "the URL wins over the service"
    );
    for (form, because) in [
        ("service=order", "the service is described in none of the files"),
        (
            "postgres://host/db?service=order",
            "described in none of the files",
        ),
        ("host=a hunter2", "not of the form NAME=VALUE"),
        ("host=a hunter2=1", "a parameter is not known"),
        ("host=a ssl=true", "`ssl` is not supported"),
    ] {
        let problem = PostgresUrl::parse_with(form, &services).unwrap_err();
        assert!(problem.contains(because), "{form}: {problem}");
    }
}

#[test]
fn target_session_attrs_has_the_values_of_libpq() {
    for (value, session, may_store) in [
        ("any", Session::Any, true),
        ("read-write", Session::ReadWrite, true),
        ("primary", Session::Primary, true),
        ("read-only", Session::ReadOnly, false),
        ("standby", Session::Standby, false),
        ("prefer-standby", Session::PreferStandby, false),
    ] {
        let url = parsed(&format!("postgres://a,b/db?target_session_attrs={value}"));
        assert_eq!(
            (url.session, session.may_store()),
            (Some(session), may_store),
            "{value}"
        );
    }
}

#[test]
fn a_pooler_is_recognised_by_its_name_or_port() {
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
        // Nor as byte values.
        for secret in [PASSWORD, "104, 117, 110"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(!url.location.contains("me"), "{}", url.location);
    }
}
