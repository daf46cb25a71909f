//! Problem types match their pages, and causes of failures are not sent to callers.

use super::*;
use crate::store::StoreError;
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_type_has_a_page_and_every_page_a_type() {
    let types: BTreeSet<String> = ProblemType::ALL
        .iter()
        .map(|kind| kind.slug().to_owned())
        .collect();
    assert_eq!(types.len(), ProblemType::ALL.len());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/problems");
    let pages: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(types, pages);
    for kind in ProblemType::ALL {
        let heading = format!("# {}\n", kind.title());
        assert!(kind.page().starts_with(&heading), "{heading}");
        let status = format!("`{}`", kind.status().as_u16());
        assert!(kind.page().contains(&status), "{} names {status}", kind.slug());
    }
}

#[test]
fn every_503_has_a_retry_after() {
    for kind in ProblemType::ALL {
        if kind.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert!(kind.retry_after().is_some(), "{kind:?}");
        }
    }
}

#[test]
fn the_cause_of_a_failure_is_only_logged() {
    let problem = Problem::from(StoreError::Unexpected {
        attempted: "accept orders",
        source: anyhow::anyhow!("table is missing").context("insert"),
    });
    assert_eq!(
        problem.cause().unwrap(),
        "accept orders: insert: table is missing"
    );
    assert!(!format!("{}", problem.detail).contains("table"));
}
