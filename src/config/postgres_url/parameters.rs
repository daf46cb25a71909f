//! Names of libpq's parameters: supported ones, refused ones, and suggestions for misspelt ones. `reader.rs` interprets
//! the values.

use crate::config::settings::suggestion;

/// Parameters with the same meaning as in libpq.
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

/// Unsupported parameters of libpq and other drivers, with advice. Ignoring them would mostly make a connection less
/// secure than its operator believes.
const REFUSED: [(&str, &str); 25] = [
    ("gssdelegation", NO_GSS),
    ("gsslib", NO_GSS),
    ("krbsrvname", NO_GSS),
    ("max_protocol_version", REMOVE_IT),
    ("min_protocol_version", REMOVE_IT),
    ("oauth_client_id", NO_OAUTH),
    ("oauth_client_secret", NO_OAUTH),
    ("oauth_issuer", NO_OAUTH),
    ("oauth_scope", NO_OAUTH),
    (
        "require_auth",
        "channel_binding=require ensures SCRAM and verifies the server; sslmode=verify-full verifies only the server",
    ),
    ("requirepeer", "set the permissions of the socket's folder"),
    ("requiressl", "use sslmode=require"),
    ("scram_client_key", "use a password"),
    ("scram_server_key", "use a password"),
    ("servicefile", "name the file in PGSERVICEFILE"),
    ("sslcrl", NO_REVOCATION),
    ("sslcrldir", NO_REVOCATION),
    ("sslkeylogfile", REMOVE_IT),
    (
        "sslpassword",
        "decrypt the key of the client's certificate (openssl pkey), with mode 0600",
    ),
    ("ssl", "use sslmode=require or sslmode=disable"),
    ("sslaccept", "use sslmode=verify-full"),
    ("schema", "the tables are in the schema `orderly`: remove it"),
    (
        "currentSchema",
        "the tables are in the schema `orderly`: remove it",
    ),
    ("search_path", "the tables are in the schema `orderly`: remove it"),
    ("authtype", REMOVE_IT),
];

const REMOVE_IT: &str = "remove it";
const NO_GSS: &str = "GSSAPI is not supported: remove it";
const NO_OAUTH: &str = "OAuth is not supported: use a password or a client certificate";
const NO_REVOCATION: &str =
    "lists of revoked certificates are not supported: replace the authority in sslrootcert";

/// Parameters of other drivers that have no effect here but occur in URLs from hosting providers.
const OF_OTHERS: [&str; 5] = [
    "connection_limit",
    "pgbouncer",
    "pool_timeout",
    "statement_cache_size",
    "uselibpqcompat",
];

/// Longer names are no parameters.
const NAME_CHARS_MAX: usize = 40;

pub fn is_taken(name: &str) -> bool {
    TAKEN.contains(&name)
}

/// Reports whether libpq knows a parameter of this name.
pub fn is_libpqs(name: &str) -> bool {
    is_taken(name) || REFUSED.iter().any(|(refused, _)| *refused == name)
}

/// Returns a warning for an unknown parameter without effect, or the reason to refuse it.
pub fn judge_unknown(name: &str) -> Result<String, String> {
    if OF_OTHERS.contains(&name) {
        return Ok(format!(
            "the parameter `{name}` belongs to another driver and is ignored"
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
        // Perhaps part of a secret value that contains an `&`.
        None => Err("a parameter is not known: remove it; write an `&` in a value as %26".to_owned()),
    }
}
