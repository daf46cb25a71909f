//! What a commit is worth under the settings of the database. Telling it is left to whoever reads them.

use super::failure::Failure;

/// The weakness of a database whose commits were on two servers before.
pub(super) const STANDBY_NO_LONGER_REQUIRED: &str = "synchronous_standby_names is empty now and was not before: commits are confirmed before another server has them";

/// The settings that decide what a commit is worth.
pub(super) struct Durability<'s> {
    synchronous_commit: &'s str,
    fsync: &'s str,
    full_page_writes: &'s str,
    /// Empty when no other server has to have a commit.
    synchronous_standby_names: &'s str,
    /// Neon keeps the log in servers of its own and no pages on a disk that could be torn or lost.
    is_neon: bool,
}

impl<'s> Durability<'s> {
    /// From the columns that `settings.sql` and `renew.sql` have for it, in their order.
    pub fn read(column: impl Fn(usize) -> Result<&'s str, Failure>) -> Result<Durability<'s>, Failure> {
        Ok(Durability {
            synchronous_commit: column(0)?,
            fsync: column(1)?,
            full_page_writes: column(2)?,
            synchronous_standby_names: column(3)?,
            is_neon: column(4)? == "true",
        })
    }

    /// Reports whether a commit has to be on another server as well.
    pub fn requires_standby(&self) -> bool {
        !self.synchronous_standby_names.is_empty() && !["off", "local"].contains(&self.synchronous_commit)
    }

    pub fn weaknesses(&self) -> Vec<String> {
        let mut found = Vec::new();
        let standbys = !self.synchronous_standby_names.is_empty();
        match self.synchronous_commit {
            "off" => found.push("synchronous_commit is off: commits are confirmed before they are on disk".to_owned()),
            // Without standbys these wait for this server's disk, as `on` does.
            weaker @ ("local" | "remote_write") if standbys => found.push(format!(
                "synchronous_commit is {weaker}: commits are confirmed before the other servers have them on disk"
            )),
            _ => {}
        }
        if self.fsync == "off" && !self.is_neon {
            found.push("fsync is off: nothing is surely on disk".to_owned());
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
    fn what_a_commit_is_worth_depends_on_who_has_to_have_it() {
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
