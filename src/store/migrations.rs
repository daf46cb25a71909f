//! What a schema must be: numbered steps with checksums, the same numbers and names in every store. Applying them is
//! left to the drivers.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::open::{Migration, OpenError};

pub(super) struct Step {
    pub number: u32,
    pub name: &'static str,
    pub sql: &'static str,
}

/// The steps of the driver with this folder: the same numbers and names in all of them.
macro_rules! steps {
    ($folder:literal) => {
        $crate::store::migrations::steps!(
            $folder, 1 "0001" "initial", 2 "0002" "live", 3 "0003" "fulfilment", 4 "0004" "fewer_writes", 5 "0005" "flat"
        )
    };
    ($folder:literal, $($number:literal $digits:literal $name:literal),+) => {
        &[$($crate::store::migrations::Step {
            number: $number,
            name: $name,
            sql: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/migrations/", $folder, "/", $digits, "_", $name, ".sql"
            )),
        }),+]
    };
}
pub(super) use steps;

/// A step that a store has.
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

/// All steps and whether they are applied; an error when the store is newer or was built otherwise.
pub(super) fn compare(
    location: &str,
    steps: &'static [Step],
    applied: &[Applied],
) -> Result<Vec<Migration>, OpenError> {
    let known = steps.last().map_or(0, |step| step.number);
    let found = applied.iter().map(|step| step.number).max().unwrap_or(0);
    if found > known {
        return Err(OpenError::SchemaNewer {
            location: location.to_owned(),
            found,
            known,
        });
    }
    let state = |step: &Step| match applied.iter().find(|applied| applied.number == step.number) {
        Some(applied) if applied.checksum != step.checksum() => Err(OpenError::MigrationChanged {
            location: location.to_owned(),
            number: step.number,
        }),
        applied => Ok(Migration {
            number: step.number,
            name: step.name,
            applied: applied.is_some(),
        }),
    };
    steps.iter().map(state).collect()
}

/// Refuses where there is no schema at all.
pub(super) fn require_any(location: &str, migrations: &[Migration]) -> Result<(), OpenError> {
    if migrations.iter().any(|step| step.applied) {
        return Ok(());
    }
    Err(OpenError::Missing {
        location: location.to_owned(),
    })
}

/// Refuses a schema that lacks a step.
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
