//! The durability of commits under the settings of the database. Callers report it.

use super::failure::PgFailure;

/// The weakness of a database whose commits earlier waited for a second server.
pub(super) const STANDBY_NO_LONGER_REQUIRED: &str = "synchronous_standby_names is empty now and was not before: commits are confirmed before another server has them";

/// The settings that determine the durability of commits.
pub(super) struct Durability<'s> {
    synchronous_commit: &'s str,
    fsync: &'s str,
    full_page_writes: &'s str,
    /// The servers that must have a commit; empty for none.
    synchronous_standby_names: &'s str,
    /// Neon keeps the log on separate servers and has no local pages that could be torn or lost.
    is_neon: bool,
}

impl<'s> Durability<'s> {
    /// Reads the settings from the columns that `settings.sql` and `renew.sql` have for them, in their order.
    pub fn read(column: impl Fn(usize) -> Result<&'s str, PgFailure>) -> Result<Durability<'s>, PgFailure> {
        Ok(Durability {
            synchronous_commit: column(0)?,
            fsync: column(1)?,
            full_page_writes: column(2)?,
            synchronous_standby_names: column(3)?,
            is_neon: column(4)? == "true",
        })
    }

    /// Reports whether a commit must also be on another server.
    pub fn requires_standby(&self) -> bool {
        !self.synchronous_standby_names.is_empty() && !["off", "local"].contains(&self.synchronous_commit)
    }

    /// Describes how commits may be lost in a crash; empty when they are safe.
    pub fn weaknesses(&self) -> Vec<String> {
        let mut found = Vec::new();
        let standbys = !self.synchronous_standby_names.is_empty();
        match self.synchronous_commit {
            "off" => found.push("synchronous_commit is off: commits are confirmed before they are on disk".to_owned()),
            // Without standbys these wait for the disk of this server, as `on` does.
            weaker @ ("local" | "remote_write") if standbys => found.push(format!(
                "synchronous_commit is {weaker}: commits are confirmed before the other servers have them on disk"
            )),
            _ => {}
        }
        if self.fsync == "off" && !self.is_neon {
            found.push("fsync is off: no commit is certain to be on disk".to_owned());
        }
        if self.full_page_writes == "off" && !self.is_neon {
            found.push("full_page_writes is off: a crash can tear pages".to_owned());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weaknesses(settings: [&'static str; 5]) -> usize {
        let durability = Durability::read(|index| Ok(settings[index])).unwrap();
        durability.weaknesses().len()
    }

    #[test]
    fn weaknesses_follow_from_the_settings() {
        for (settings, expected) in [
            (["on", "on", "on", "", "false"], 0),
            (["off", "off", "off", "", "false"], 3),
            (["local", "on", "on", "", "false"], 0),
            (["local", "on", "on", "standby", "false"], 1),
            (["remote_write", "on", "on", "standby", "false"], 1),
            (["on", "off", "off", "walproposer", "true"], 0),
            (["off", "off", "off", "walproposer", "true"], 1),
        ] {
            assert_eq!(weaknesses(settings), expected, "{settings:?}");
        }
    }
}
