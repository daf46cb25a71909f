//! Choice of processor, its settings, and the backoff.

use std::time::Duration;

use super::{ProcessorChoice, given};

const URL: &str = "http://me:hunter2@127.0.0.1:8000/orders";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[test]
fn the_http_processor_gets_its_settings() {
    let given = given()
        .variable("ORDERLY_PROCESSOR", "http")
        .variable("ORDERLY_PROCESSOR_URL", URL)
        .variable("ORDERLY_PROCESSOR_SECRET", SECRET)
        .variable("ORDERLY_PROCESSOR_RESPONSE_TIMEOUT", "2m");
    let loaded = given.load().unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let ProcessorChoice::Http(service) = &loaded.config.processor else {
        panic!("{:?}", loaded.config.processor)
    };
    assert_eq!(service.url.expose().as_str(), URL);
    assert_eq!(service.signing_keys.len(), 1);
    assert_eq!(service.connect_timeout, Duration::from_secs(5));
    assert_eq!(service.response_timeout, Duration::from_mins(2));
    let shown = format!("{:?}", loaded.config);
    assert!(!shown.contains("hunter2") && !shown.contains("MfKQ"), "{shown}");
}

#[test]
fn two_signing_keys_can_come_from_a_file() {
    let given = given().file("secret", &format!("{SECRET}\n{SECRET}\n"));
    let path = given.path("secret");
    let given = given
        .variable("ORDERLY_PROCESSOR", "http")
        .variable("ORDERLY_PROCESSOR_URL", URL)
        .variable("ORDERLY_PROCESSOR_SECRET_FILE", &path);
    let ProcessorChoice::Http(service) = given.config().processor else {
        panic!("it is http")
    };
    assert_eq!(service.signing_keys.len(), 2);
}

#[test]
fn a_missing_or_wrong_setting_is_reported_without_secrets() {
    let http = || given().variable("ORDERLY_PROCESSOR", "http");
    let missing = http().problem();
    assert!(
        missing.starts_with("ORDERLY_PROCESSOR (from the environment): `http` needs ORDERLY_PROCESSOR_URL"),
        "{missing}"
    );
    for (name, text) in [
        ("ORDERLY_PROCESSOR_URL", "ftp://me:hunter2@shop.example"),
        ("ORDERLY_PROCESSOR_SECRET", "whsec_hunter2"),
        ("ORDERLY_PROCESSOR_CONNECT_TIMEOUT", "5"),
        ("ORDERLY_PROCESSOR_RESPONSE_TIMEOUT", "1ms"),
    ] {
        let given = http().variable("ORDERLY_PROCESSOR_URL", URL).variable(name, text);
        let problem = given.problem();
        assert!(
            problem.starts_with(&format!("{name} (from the environment): ")),
            "{problem}"
        );
        assert!(!problem.contains("hunter2"), "{problem}");
    }
    let problem = given().variable("ORDERLY_PROCESSOR", "htpp").problem();
    assert!(
        problem.ends_with("`htpp` is not `simulated` or `http` or `pull`"),
        "{problem}"
    );
}

#[test]
fn an_unused_service_or_unsigned_deliveries_cause_a_warning() {
    let unsigned = given()
        .variable("ORDERLY_PROCESSOR", "http")
        .variable("ORDERLY_PROCESSOR_URL", URL);
    let warnings = unsigned.load().unwrap().warnings;
    assert!(
        matches!(&warnings[..], [one] if one.starts_with("ORDERLY_PROCESSOR_SECRET is not set")),
        "{warnings:?}"
    );
    let forgotten = given().variable("ORDERLY_PROCESSOR_URL", URL);
    let warnings = forgotten.load().unwrap().warnings;
    assert!(
        matches!(&warnings[..], [one] if one.contains("but processing is simulated")),
        "{warnings:?}"
    );
}

#[test]
fn the_first_backoff_is_at_most_the_longest() {
    let problem = given().variable("ORDERLY_RETRY_BASE", "10m").problem();
    assert!(problem.contains("longer than ORDERLY_RETRY_CAP"), "{problem}");
}
