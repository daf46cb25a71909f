//! The steps of a schema: numbered, with checksums, and with the same numbers and names for both drivers. Drivers apply them.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::opening::{Migration, OpenError};

pub(super) struct Step {
    pub number: u32,
    pub name: &'static str,
    pub sql: &'static str,
}

/// Lists the steps of a driver. All drivers have the same numbers and names.
macro_rules! steps {
    ("sqlite") => {
        $crate::store::migrations::steps!("sqlite", 1 "initial" ["0001_initial"])
    };
    ("postgres") => {
        $crate::store::migrations::steps!("postgres", 1 "initial" ["0001_initial" "0001_views"])
    };
    ($folder:literal, $($number:literal $name:literal [$($file:literal)+]),+) => {
        &[$($crate::store::migrations::Step {
            number: $number,
            name: $name,
            sql: concat!($(
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $folder, "/", $file, ".sql"))
            ),+),
        }),+]
    };
}
pub(super) use steps;

/// A step that was applied to a store.
pub(super) struct Applied {
    pub number: u32,
    pub checksum: String,
}

impl Step {
    pub fn checksum(&self) -> String {
        let digest = Sha256::digest(self.sql);
        digest.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// All steps, and whether each is applied. Fails if another build made the store, or a newer binary migrated it.
pub(super) fn compare(
    location: &str,
    steps: &[Step],
    applied: &[Applied],
) -> Result<Vec<Migration>, OpenError> {
    let applied_as = |step: &Step| applied.iter().find(|applied| applied.number == step.number);
    let differs = |step: &&Step| applied_as(step).is_some_and(|applied| applied.checksum != step.checksum());
    // Checked first, because the numbers of another build mean nothing here.
    if let Some(step) = steps.iter().find(differs) {
        return Err(OpenError::SchemaDiffers {
            location: location.to_owned(),
            number: step.number,
        });
    }
    let known = steps.last().map_or(0, |step| step.number);
    let found = applied.iter().map(|step| step.number).max().unwrap_or(0);
    if found > known {
        return Err(OpenError::SchemaNewer {
            location: location.to_owned(),
            found,
            known,
        });
    }
    let state = |step: &Step| Migration {
        number: step.number,
        name: step.name,
        applied: applied_as(step).is_some(),
    };
    Ok(steps.iter().map(state).collect())
}

/// Fails with [`OpenError::Missing`] if no step is applied.
pub(super) fn require_any(location: &str, migrations: &[Migration]) -> Result<(), OpenError> {
    if migrations.iter().any(|step| step.applied) {
        return Ok(());
    }
    Err(OpenError::Missing {
        location: location.to_owned(),
    })
}

/// Fails with [`OpenError::SchemaOlder`] if a step is missing.
pub(super) fn require_current(location: &str, migrations: &[Migration]) -> Result<(), OpenError> {
    let newest = |applied_only: bool| {
        let steps = migrations.iter().filter(|step| step.applied || !applied_only);
        steps.map(|step| step.number).max().unwrap_or(0)
    };
    let (found, needed) = (newest(true), newest(false));
    if found < needed {
        return Err(OpenError::SchemaOlder {
            location: location.to_owned(),
            found,
            needed,
        });
    }
    Ok(())
}
