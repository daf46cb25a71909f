//! `sslmode` against real servers: a good certificate, one for another host, one that nobody signed, and none. Each
//! connects or is refused as libpq does, which is asked where `psql` is installed.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use orderly::store::open::migrate;
use tokio::process::Command;

use super::scene::{database_at, has_postgres, node, until_ready, warnings_with};
use crate::support::client::{Answer, Request, http, post};
use crate::support::postgres::{Authority, Certificate, Options, Server, TestDatabase};
use crate::support::process::Process;
use crate::support::required;

/// What every server here is called by; the certificate of one of them says otherwise.
const HOST: &str = "127.0.0.1";

/// A server by what it shows, which lives as long as its database.
struct Shown {
    name: &'static str,
    database: TestDatabase,
}

/// Whether a URL is to connect.
const YES: bool = true;
const NO: bool = false;

/// The columns are the servers: good, wrong name, self-signed, plain.
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
    // No file: the machine's authorities have signed none of these. libpq refuses before it looks.
    ("sslmode=verify-full", [NO, NO, NO, NO]),
];

/// The servers in the table's order, and the folder with the files that the table names.
async fn servers(folder: &Path) -> Vec<Shown> {
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
        servers.push(Shown {
            name,
            database: server.create_database().await,
        });
    }
    servers
}

fn url(server: &Shown, parameters: &str, folder: &Path) -> String {
    let mut url = server.database.url();
    if !parameters.is_empty() {
        write!(url, "?{parameters}").expect("a string takes all text");
    }
    url.replace("sslrootcert=", &format!("sslrootcert={}/", folder.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sslmode_means_what_libpq_means_by_it() {
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

/// With a home of its own: a certificate of the user's would have a say.
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

/// A node has many connections, and its operator needs to hear it once.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_verify_is_told_once_where_it_is_not_refused() {
    if !has_postgres() {
        return;
    }
    let certificates = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    std::fs::write(certificates.path().join("AUTHORITY"), authority.root()).unwrap();
    let certificate = authority.certificate_for(&[HOST]);
    let server = Server::start(Options::default().certificate(certificate)).await;
    for (parameters, told) in [
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
        let encrypted = super::scene::number(&database.admin().await, sessions).await;
        assert!(encrypted > 1, "{parameters}: {encrypted} encrypted connections");
        assert_eq!(node.terminate().await, Some(0));
        let warnings = warnings_with(folder.path(), "certificate does not verify");
        assert_eq!(warnings.len(), told, "{parameters}: {warnings:?}");
    }
}

/// Writes a file of a test's, with this mode.
fn written(path: &Path, text: &str, mode: u32) -> String {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

/// Issue 15, point 3: `sslcert` and `sslkey` were ignored with a warning.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_a_client_certificate_is_shown_one() {
    if !has_postgres() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The server is another user.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new();
    let roots = written(&path("roots"), &authority.root(), 0o644);
    let rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n";
    let rules = written(&path("rules"), rules, 0o644);
    let options = Options::default()
        .certificate(authority.certificate_for(&[HOST]))
        .setting("ssl_ca_file", &roots)
        .setting("hba_file", &rules);
    let server = Server::start(options).await;
    let database = server.create_database().await;
    let client = authority.certificate_for(&["client.example"]);
    let certificate = written(&path("client.crt"), &client.chain, 0o644);
    let key = written(&path("client.key"), &client.key, 0o600);
    let open_key = written(&path("open.key"), &client.key, 0o644);
    let stranger = Certificate::self_signed(&["client.example"]);
    let stranger_certificate = written(&path("stranger.crt"), &stranger.chain, 0o644);
    let stranger_key = written(&path("stranger.key"), &stranger.key, 0o600);
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
        let told = connected.err().map(|error| with_causes(&error));
        match problem {
            None => assert_eq!(told, None, "{parameters}"),
            Some(part) => {
                let told = told.expect(&parameters);
                assert!(told.contains(part), "{parameters}: {told}");
            }
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
