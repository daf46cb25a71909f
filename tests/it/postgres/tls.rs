//! `sslmode` against real servers: with a valid certificate, one for another host, a self-signed one, and none. Each connects or is
//! refused as in libpq; if `psql` is installed, the tests compare with it.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use orderly::store::open::migrate;
use tokio::process::Command;

use super::setup::{database_at, has_postgres, node, until_ready, warnings_with};
use crate::support::client::{Answer, Request, http, post};
use crate::support::postgres::{Authority, Certificate, Options, Server, TestDatabase};
use crate::support::process::Process;
use crate::support::required;

/// The host name of every server. The certificate of one of them is for another name.
const HOST: &str = "127.0.0.1";

/// A server with its kind of certificate. It runs as long as its database exists.
struct TlsServer {
    name: &'static str,
    database: TestDatabase,
}

/// Expected results: the URL connects or is refused.
const YES: bool = true;
const NO: bool = false;

/// Expected results by URL parameters. The columns are the servers: valid, wrong name, self-signed, no TLS.
const TABLE: [(&str, [bool; 4]); 11] = [
    ("sslmode=disable", [YES, YES, YES, YES]),
    ("", [YES, YES, YES, YES]),
    ("sslmode=prefer", [YES, YES, YES, YES]),
    ("sslmode=require", [YES, YES, YES, NO]),
    ("sslmode=require&sslrootcert=AUTHORITY", [YES, YES, NO, NO]),
    ("sslmode=verify-ca&sslrootcert=AUTHORITY", [YES, YES, NO, NO]),
    ("sslmode=verify-full&sslrootcert=AUTHORITY", [YES, NO, NO, NO]),
    ("sslmode=require&sslrootcert=SELF", [NO, NO, YES, NO]),
    ("sslmode=verify-ca&sslrootcert=SELF", [NO, NO, YES, NO]),
    ("sslmode=verify-full&sslrootcert=SELF", [NO, NO, YES, NO]),
    // Without a file: the system's authorities have signed none of these. libpq refuses without connecting.
    ("sslmode=verify-full", [NO, NO, NO, NO]),
];

/// Starts the servers in the order of the table; writes the files that the table names to `folder`.
async fn servers(folder: &Path) -> Vec<TlsServer> {
    let authority = Authority::new();
    let self_signed = Certificate::self_signed(&[HOST]);
    std::fs::write(folder.join("AUTHORITY"), authority.root()).unwrap();
    std::fs::write(folder.join("SELF"), &self_signed.chain).unwrap();
    let mut servers = Vec::new();
    for (name, certificate) in [
        ("good", Some(authority.certificate_for(&[HOST]))),
        (
            "wrong name",
            Some(authority.certificate_for(&["elsewhere.example"])),
        ),
        ("self-signed", Some(self_signed)),
        ("plain", None),
    ] {
        let server = match certificate {
            Some(certificate) => Server::start(Options::default().certificate(certificate)).await,
            None => Server::shared().await.clone(),
        };
        servers.push(TlsServer {
            name,
            database: server.create_database().await,
        });
    }
    servers
}

fn url(server: &TlsServer, parameters: &str, folder: &Path) -> String {
    let mut url = server.database.url();
    if !parameters.is_empty() {
        write!(url, "?{parameters}").expect("a string takes all text");
    }
    url.replace("sslrootcert=", &format!("sslrootcert={}/", folder.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sslmode_behaves_as_in_libpq() {
    if !has_postgres() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let servers = servers(folder.path()).await;
    let psql = psql().await;
    let mut wrong = Vec::new();
    for (parameters, expected) in TABLE {
        for (server, expected) in servers.iter().zip(expected) {
            let url = url(server, parameters, folder.path());
            let connected = migrate(&database_at(&url), true).await;
            if connected.is_ok() != expected {
                wrong.push(format!("{parameters} to {}: {:?}", server.name, connected.err()));
            }
            if let Some(psql) = &psql
                && connects(psql, &url, folder.path()).await != expected
            {
                wrong.push(format!("{parameters} to {}: psql does otherwise", server.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn psql() -> Option<PathBuf> {
    let asked = Command::new("psql").arg("--version").output().await;
    required("psql", asked.is_ok()).then(|| PathBuf::from("psql"))
}

/// Reports whether `psql` connects. It gets an empty home, because it would use a client certificate in the user's.
async fn connects(psql: &Path, url: &str, home: &Path) -> bool {
    let status = Command::new(psql)
        .args([url, "-X", "-q", "-c", "select 1"])
        .env("HOME", home)
        .env_remove("PGSSLMODE")
        .env_remove("PGSSLROOTCERT")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    status.expect("psql can be run").success()
}

/// A node has many connections, but logs the warning once.
#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_unverified_certificate_is_warned_about_once() {
    if !has_postgres() {
        return;
    }
    let certificates = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    std::fs::write(certificates.path().join("AUTHORITY"), authority.root()).unwrap();
    let certificate = authority.certificate_for(&[HOST]);
    let server = Server::start(Options::default().certificate(certificate)).await;
    for (parameters, warnings_expected) in [
        ("sslmode=require", 1),
        ("sslmode=prefer", 0),
        ("sslmode=verify-full&sslrootcert=AUTHORITY", 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let database = server.create_database().await;
        let parameters = parameters.replace(
            "AUTHORITY",
            &format!("{}/AUTHORITY", certificates.path().display()),
        );
        let url = format!("{}?{parameters}", database.url());
        let node = Process::start(node(folder.path(), &url)).await;
        until_ready(&node).await;
        for number in 0..4 {
            let request = Request {
                key: format!("order {number}"),
                user_id: 1,
                cents: 1,
            };
            let posted = post(&http(), &node.url, &request).await;
            assert!(matches!(posted, Answer::Created(_)), "{posted:?}");
        }
        let sessions = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid)
            where datname = current_database() and ssl";
        let encrypted = super::setup::number(&database.admin().await, sessions).await;
        assert!(encrypted > 1, "{parameters}: {encrypted} encrypted connections");
        assert_eq!(node.terminate().await, Some(0));
        let warnings = warnings_with(folder.path(), "certificate does not verify");
        assert_eq!(warnings.len(), warnings_expected, "{parameters}: {warnings:?}");
    }
}

/// Writes a file with this mode and returns its path.
fn write_file(path: &Path, text: &str, mode: u32) -> String {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

/// Issue 15, point 3: `sslcert` and `sslkey` were ignored with a warning.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_presented_on_request() {
    if !has_postgres() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The server runs as another user.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new();
    let roots = write_file(&path("roots"), &authority.root(), 0o644);
    let rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n";
    let rules = write_file(&path("rules"), rules, 0o644);
    let options = Options::default()
        .certificate(authority.certificate_for(&[HOST]))
        .setting("ssl_ca_file", &roots)
        .setting("hba_file", &rules);
    let server = Server::start(options).await;
    let database = server.create_database().await;
    let client = authority.certificate_for(&["client.example"]);
    let certificate = write_file(&path("client.crt"), &client.chain, 0o644);
    let key = write_file(&path("client.key"), &client.key, 0o600);
    let open_key = write_file(&path("open.key"), &client.key, 0o644);
    let stranger = Certificate::self_signed(&["client.example"]);
    let stranger_certificate = write_file(&path("stranger.crt"), &stranger.chain, 0o644);
    let stranger_key = write_file(&path("stranger.key"), &stranger.key, 0o600);
    for (parameters, problem) in [
        (format!("sslcert={certificate}&sslkey={key}"), None),
        (
            format!("sslcert={certificate}&sslkey={key}&ssl_min_protocol_version=TLSv1.3"),
            None,
        ),
        (String::new(), Some("certificate")),
        (
            format!("sslcert={certificate}&sslkey={key}&sslcertmode=disable"),
            Some("certificate"),
        ),
        (
            format!("sslcert={stranger_certificate}&sslkey={stranger_key}"),
            Some("connect"),
        ),
        (
            format!("sslcert={certificate}&sslkey={open_key}"),
            Some("others can use it"),
        ),
        (
            format!("sslcert={certificate}&sslkey={stranger_key}"),
            Some("use the client certificate"),
        ),
    ] {
        let url = format!(
            "{}?sslmode=require&sslrootcert={roots}&{parameters}",
            database.url()
        );
        let connected = migrate(&database_at(&url), true).await;
        let error = connected.err().map(|error| with_causes(&error));
        match problem {
            None => assert_eq!(error, None, "{parameters}"),
            Some(part) => {
                let error = error.expect(&parameters);
                assert!(error.contains(part), "{parameters}: {error}");
            }
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
