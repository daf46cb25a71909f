//! The names of libpq's parameters: those that count here, those that are refused because they would be ignored, and what a
//! misspelt one was probably meant to be. What the values mean is left to `reader.rs`.

use crate::config::settings::suggestion;

/// Parameters that mean here what they mean to libpq.
const TAKEN: [&str; 33] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssencmode",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Parameters of libpq and of other drivers that do not work here, each with what to do. Ignored, most would make a connection less secure than
/// its operator believes.
const REFUSED: [(&str, &str); 25] = [
    ("gssdelegation", NO_GSS),
    ("gsslib", NO_GSS),
    ("krbsrvname", NO_GSS),
    ("max_protocol_version", TAKE_OUT),
    ("min_protocol_version", TAKE_OUT),
    ("oauth_client_id", NO_OAUTH),
    ("oauth_client_secret", NO_OAUTH),
    ("oauth_issuer", NO_OAUTH),
    ("oauth_scope", NO_OAUTH),
    (
        "require_auth",
        "channel_binding=require makes sure of SCRAM and of the server; sslmode=verify-full of the server alone",
    ),
    ("requirepeer", "set the rights of the socket's folder"),
    ("requiressl", "write sslmode=require"),
    ("scram_client_key", "use a password"),
    ("scram_server_key", "use a password"),
    ("servicefile", "name the file in PGSERVICEFILE"),
    ("sslcrl", NO_REVOCATION),
    ("sslcrldir", NO_REVOCATION),
    ("sslkeylogfile", TAKE_OUT),
    (
        "sslpassword",
        "decrypt the key of the client's certificate (openssl pkey), with mode 0600",
    ),
    ("ssl", "write sslmode=require, or sslmode=disable"),
    ("sslaccept", "write sslmode=verify-full"),
    ("schema", "the tables are in the schema `orderly`: take it out"),
    (
        "currentSchema",
        "the tables are in the schema `orderly`: take it out",
    ),
    (
        "search_path",
        "the tables are in the schema `orderly`: take it out",
    ),
    ("authtype", TAKE_OUT),
];

const TAKE_OUT: &str = "take it out";
const NO_GSS: &str = "GSSAPI is not supported: take it out";
const NO_OAUTH: &str = "OAuth is not supported: use a password or a client certificate";
const NO_REVOCATION: &str =
    "lists of revoked certificates are not supported: replace the authority in sslrootcert";

/// Parameters of other drivers that change nothing here and stand in the URLs that hosts hand out.
const OF_OTHERS: [&str; 5] = [
    "connection_limit",
    "pgbouncer",
    "pool_timeout",
    "statement_cache_size",
    "uselibpqcompat",
];

/// A name longer than this is no parameter of anybody's.
const NAME_CHARS_MAX: usize = 40;

/// Reports whether libpq knows a parameter of this name.
pub fn is_libpqs(name: &str) -> bool {
    TAKEN.contains(&name) || REFUSED.iter().any(|(refused, _)| *refused == name)
}

/// Judges a parameter that has no meaning here: a warning where it changes nothing, otherwise the reason to refuse it.
pub fn judge_unknown(name: &str) -> Result<String, String> {
    if OF_OTHERS.contains(&name) {
        return Ok(format!(
            "the parameter `{name}` is of another driver and is ignored"
        ));
    }
    if let Some((_, advice)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(format!("the parameter `{name}` is not supported: {advice}"));
    }
    let is_short = name.len() <= NAME_CHARS_MAX;
    match suggestion(name, TAKEN.map(str::to_owned)).filter(|_| is_short) {
        Some(meant) => Err(format!(
            "the parameter `{name}` is not known: did you mean `{meant}`?"
        )),
        // Perhaps part of a value with an `&` in it, and that value a secret.
        None => Err("a parameter is not known: take it out; an `&` in a value is written %26".to_owned()),
    }
}
