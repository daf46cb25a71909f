//! The connections of a node: what each kind of work may have of them, which goes first, and which share when there are
//! few. Deciding is all that happens here; `pool.rs` opens, lends and closes them.

/// The most connections that a node opens, including the one that listens.
pub(super) const CONNECTIONS_MAX: usize = 15;
/// A node works on fewer, one after the other; from this number on, results never wait for other work.
pub const CONNECTIONS_MIN: usize = 3;

/// The uses of a connection, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Results of attempts: they free everything else.
    Settle,
    /// Heartbeats, joining and leaving.
    Heartbeat,
    Claim,
    Accept,
    /// Pausing and the answer to it, the janitor, numbering the feed, notifications, probes.
    Control,
    /// Cancelling and retrying orders; leases of external workers.
    Act,
    /// Pages of the feed, for its tail and for subscribers that catch up.
    Feed,
    /// The state of the queue and the counters, which monitors read; the limits that the settings name; sessions that lock
    /// orders.
    Numbers,
    /// Single orders, read in groups.
    Point,
    /// Lists, histories, explanations: they may be slow, and wait behind everything.
    List,
    /// The connection that hears notifications. A node without it polls.
    Listen,
}

/// Classes that share what is kept when there are too few connections for each to have its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Urgent,
    Work,
    Read,
    Spare,
}

struct Row {
    class: Class,
    tier: Tier,
    /// The most connections in use at once.
    most: usize,
    /// The connections that classes behind this one never use, when there are enough.
    kept: usize,
}

const fn row(class: Class, tier: Tier, most: usize, kept: usize) -> Row {
    Row {
        class,
        tier,
        most,
        kept,
    }
}

/// The most urgent first, in the order of [`Class`].
const TABLE: [Row; CLASSES] = [
    row(Class::Settle, Tier::Urgent, 2, 1),
    row(Class::Heartbeat, Tier::Urgent, 1, 1),
    row(Class::Claim, Tier::Work, 1, 1),
    row(Class::Accept, Tier::Work, 2, 1),
    row(Class::Control, Tier::Work, 3, 1),
    row(Class::Act, Tier::Work, 2, 1),
    row(Class::Feed, Tier::Work, 2, 1),
    row(Class::Numbers, Tier::Work, 2, 1),
    row(Class::Point, Tier::Read, 2, 1),
    row(Class::List, Tier::Read, 4, 1),
    row(Class::Listen, Tier::Spare, 1, 0),
];

pub(super) const CLASSES: usize = 11;

/// The number of connections that each class uses.
pub(super) type InUse = [usize; CLASSES];

impl Class {
    pub fn all() -> impl Iterator<Item = Class> {
        TABLE.iter().map(|row| row.class)
    }

    pub fn rank(self) -> usize {
        self as usize
    }

    /// Returns the most connections that the class may use at once when there are enough.
    pub fn most(self) -> usize {
        TABLE[self.rank()].most
    }

    pub fn is_urgent(self) -> bool {
        TABLE[self.rank()].tier == Tier::Urgent
    }

    /// Reports whether the class has no use for a connection over which nothing can be written.
    pub fn must_write(self) -> bool {
        match self {
            Class::Settle | Class::Heartbeat | Class::Claim | Class::Accept | Class::Control | Class::Act => {
                true
            }
            Class::Feed | Class::Numbers | Class::Point | Class::List | Class::Listen => false,
        }
    }

    /// Reports whether what the class stores is stored by calls of functions, which have their limits in them.
    pub fn stores_by_functions(self) -> bool {
        matches!(self, Class::Settle | Class::Accept)
    }

    /// Reports whether what the class reads is read by calls of functions, which have their limits in them.
    pub fn reads_by_functions(self) -> bool {
        matches!(self, Class::Point)
    }

    /// Reports whether the class may use one more of `allowed` connections.
    pub fn may_use_one_more(self, in_use: &InUse, allowed: usize) -> bool {
        let used_from = |rank: usize| in_use[rank..].iter().sum::<usize>();
        // With few, a class that just gave its connection back lets the others go first.
        let most = if is_enough(allowed) { self.most() } else { 1 };
        in_use[self.rank()] < most
            && TABLE[..=self.rank()]
                .iter()
                .all(|ahead| used_from(first_that_shares(ahead, allowed)) < share(ahead, allowed))
    }
}

/// Reports whether each class can have its own connections.
fn is_enough(allowed: usize) -> bool {
    allowed >= TABLE.iter().map(|row| row.kept).sum()
}

/// Returns the rank from which on classes count against the share of this one.
fn first_that_shares(row: &Row, allowed: usize) -> usize {
    if is_enough(allowed) {
        return row.class.rank();
    }
    let first = TABLE.iter().find(|other| other.tier == row.tier);
    first.unwrap_or(row).class.rank()
}

/// Returns how many of `allowed` connections the class and those behind it may use together.
fn share(row: &Row, allowed: usize) -> usize {
    let ahead: usize = TABLE[..row.class.rank()].iter().map(|row| row.kept).sum();
    match row.tier {
        // Used as long as the node runs, so it must be one that no other class needs.
        Tier::Spare => allowed.saturating_sub(ahead),
        _ if is_enough(allowed) => allowed - ahead,
        Tier::Urgent => allowed.max(1),
        Tier::Work => allowed.saturating_sub(1).max(1),
        Tier::Read => (allowed.saturating_sub(1) / 2).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets each class use as many connections as it may.
    fn used_up(classes: &[Class], allowed: usize) -> InUse {
        let mut in_use = [0; CLASSES];
        for class in classes {
            while class.may_use_one_more(&in_use, allowed) {
                in_use[class.rank()] += 1;
            }
        }
        in_use
    }

    #[test]
    fn the_table_is_in_the_order_of_the_classes() {
        for (rank, row) in TABLE.iter().enumerate() {
            assert_eq!(row.class.rank(), rank);
            assert!(row.kept <= row.most);
        }
    }

    #[test]
    fn classes_behind_never_keep_a_more_urgent_tier_waiting() {
        let reads = [Class::Listen, Class::List, Class::Point];
        let work = [
            Class::Numbers,
            Class::Feed,
            Class::Act,
            Class::Control,
            Class::Accept,
            Class::Claim,
        ];
        for allowed in CONNECTIONS_MIN..=CONNECTIONS_MAX {
            let read = used_up(&reads, allowed);
            for class in work {
                assert!(class.may_use_one_more(&read, allowed), "{class:?} of {allowed}");
            }
            let busy = used_up(&[&reads[..], &work[..]].concat(), allowed);
            for class in [Class::Settle, Class::Heartbeat] {
                assert!(class.may_use_one_more(&busy, allowed), "{class:?} of {allowed}");
            }
            let urgent = used_up(&[Class::Heartbeat, Class::Settle], allowed);
            assert!(urgent.iter().sum::<usize>() <= allowed);
        }
    }

    #[test]
    fn nothing_is_used_beyond_what_is_allowed() {
        let mut backwards: Vec<Class> = Class::all().collect();
        backwards.reverse();
        let forwards: Vec<Class> = Class::all().collect();
        for allowed in 1..=CONNECTIONS_MAX {
            for order in [&forwards, &backwards] {
                assert!(used_up(order, allowed).iter().sum::<usize>() <= allowed);
            }
            for class in forwards.iter().filter(|class| **class != Class::Listen) {
                assert!(
                    class.may_use_one_more(&[0; CLASSES], allowed),
                    "{class:?} of {allowed}"
                );
            }
        }
    }

    #[test]
    fn the_listener_takes_only_what_no_other_class_needs() {
        let allowed: Vec<usize> = (1..=CONNECTIONS_MAX)
            .filter(|allowed| Class::Listen.may_use_one_more(&[0; CLASSES], *allowed))
            .collect();
        assert_eq!(allowed, (11..=CONNECTIONS_MAX).collect::<Vec<_>>());
    }
}
