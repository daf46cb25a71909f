//! Checks the Redis that hands out the work.

use super::Finding;
use crate::config::Config;
use crate::handout::{Survey, survey};

/// Returns `None` without a Redis.
pub async fn check(config: &Config) -> Option<Finding> {
    let server = config.redis.as_ref()?;
    Some(match survey(server).await {
        Ok(found) => judge(&server.location, &found),
        Err(reason) => Finding::fail(
            format!("{} cannot be used: {reason}", server.location),
            advice(&reason),
        ),
    })
}

fn judge(location: &str, found: &Survey) -> Finding {
    let Survey {
        version,
        evicts,
        depth,
    } = found;
    if let Some(policy) = evicts {
        return Finding::warn(
            format!("{location} may remove what waits when its memory is full (maxmemory-policy {policy})"),
            "set maxmemory-policy noeviction: until then orders can start late, and none is lost",
        );
    }
    let depth = depth.map_or_else(
        || "no node has used it yet".to_owned(),
        |depth| format!("{depth} orders in its stream"),
    );
    Finding::ok(format!("{location} answers (version {version}), {depth}"))
}

/// Returns what helps against the error of a command.
fn advice(reason: &str) -> &'static str {
    const UNTIL_THEN: &str =
        "check that Redis runs and can be reached at REDIS_URL; until then the database hands out the work";
    let known = [
        (
            ["NOAUTH", "WRONGPASS", "AuthenticationFailed", "authentication"],
            "correct user and password in REDIS_URL; until then the database hands out the work",
        ),
        (
            ["NOPERM", "NoPerm", "ACL", "permission"],
            "grant the user the commands of streams and channels (+@stream +@pubsub +@scripting +info +exists +set +del); until \
             then the database hands out the work",
        ),
        (
            ["OOM", "MISCONF", "READONLY", "ReadOnly"],
            "Redis takes no writes: look at its memory, its disk, and whether it is a replica; until then the database hands out \
             the work",
        ),
    ];
    let fits = |(words, _): &&([&str; 4], &str)| words.iter().any(|word| reason.contains(word));
    known.iter().find(fits).map_or(UNTIL_THEN, |(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_redis_that_may_evict_is_a_warning() {
        let of = |evicts: Option<&str>| {
            let found = Survey {
                version: "7.0.15".to_owned(),
                evicts: evicts.map(str::to_owned),
                depth: None,
            };
            judge("redis://host", &found).state
        };
        assert_eq!(of(None), State::Ok);
        assert_eq!(of(Some("allkeys-lru")), State::Warn);
    }

    #[test]
    fn advice_fits_the_error() {
        assert!(advice("NOAUTH: Authentication required.").contains("password"));
        assert!(advice("OOM: command not allowed").contains("memory"));
        assert!(advice("Connection refused").contains("can be reached"));
    }
}
