//! The shares of the classes of work in the connection pool: how many connections each may use, which goes first, and
//! which share when connections are few. This module only decides; `pool.rs` opens, checks out and closes
//! connections.

/// The most connections that a node opens, including the one that listens.
pub(super) const CONNECTIONS_MAX: usize = 15;
/// The number of connections from which results never wait for other work. A node also works with fewer, one
/// statement at a time.
pub const CONNECTIONS_MIN: usize = 3;

/// The classes of work, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Results of attempts, which free everything else.
    Settle,
    /// Heartbeats, joining and leaving.
    Heartbeat,
    Claim,
    Accept,
    /// Pausing and its answer, the janitor, numbering, notifications, probes.
    Control,
    /// Cancelling and retrying orders; leases of external workers.
    OrderAction,
    /// Pages of the feed, for the tail and for subscribers that catch up.
    Feed,
    /// The queue and the counters, which monitors read; connection limits; holders of locks.
    Monitoring,
    /// Point reads, in groups.
    PointRead,
    /// Lists, histories and explanations. They may be slow, and wait behind everything else.
    List,
    /// The connection that receives notifications. A node without it polls.
    Listen,
}

/// Classes that share their connections when there are too few for each to have its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Urgent,
    Work,
    Read,
    Spare,
}

struct Share {
    class: Class,
    tier: Tier,
    /// The most connections in use at once.
    most: usize,
    /// The connections that less urgent classes leave free, when there are enough.
    kept: usize,
}

const fn class_share(class: Class, tier: Tier, most: usize, kept: usize) -> Share {
    Share {
        class,
        tier,
        most,
        kept,
    }
}

/// The shares of all classes, in the order of [`Class`].
const TABLE: [Share; CLASSES] = [
    class_share(Class::Settle, Tier::Urgent, 2, 1),
    class_share(Class::Heartbeat, Tier::Urgent, 1, 1),
    class_share(Class::Claim, Tier::Work, 1, 1),
    class_share(Class::Accept, Tier::Work, 2, 1),
    class_share(Class::Control, Tier::Work, 3, 1),
    class_share(Class::OrderAction, Tier::Work, 2, 1),
    class_share(Class::Feed, Tier::Work, 2, 1),
    class_share(Class::Monitoring, Tier::Work, 2, 1),
    class_share(Class::PointRead, Tier::Read, 2, 1),
    class_share(Class::List, Tier::Read, 4, 1),
    class_share(Class::Listen, Tier::Spare, 1, 0),
];

pub(super) const CLASSES: usize = 11;

/// The number of connections that each class uses, by rank.
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

    /// Reports whether the class needs connections that take writes.
    pub fn must_write(self) -> bool {
        match self {
            Class::Settle
            | Class::Heartbeat
            | Class::Claim
            | Class::Accept
            | Class::Control
            | Class::OrderAction => true,
            Class::Feed | Class::Monitoring | Class::PointRead | Class::List | Class::Listen => false,
        }
    }

    /// Reports whether the class writes only by functions, which have their own limits.
    pub fn stores_by_functions(self) -> bool {
        matches!(self, Class::Settle | Class::Accept)
    }

    /// Reports whether the class reads only by functions, which have their own limits.
    pub fn reads_by_functions(self) -> bool {
        matches!(self, Class::PointRead)
    }

    /// Reports whether the class may use one more of `allowed` connections.
    pub fn may_use_one_more(self, in_use: &InUse, allowed: usize) -> bool {
        let used_from = |rank: usize| in_use[rank..].iter().sum::<usize>();
        // With few connections, a class that just returned one lets the others go first.
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

/// Returns the rank from which classes count against this share.
fn first_that_shares(row: &Share, allowed: usize) -> usize {
    if is_enough(allowed) {
        return row.class.rank();
    }
    let first = TABLE.iter().find(|other| other.tier == row.tier);
    first.unwrap_or(row).class.rank()
}

/// Returns how many of `allowed` connections the class and all less urgent ones may use together.
fn share(row: &Share, allowed: usize) -> usize {
    let ahead: usize = TABLE[..row.class.rank()].iter().map(|row| row.kept).sum();
    match row.tier {
        // It is in use as long as the node runs, so it must be one that no other class needs.
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
    fn less_urgent_classes_never_block_a_more_urgent_tier() {
        let reads = [Class::Listen, Class::List, Class::PointRead];
        let work = [
            Class::Monitoring,
            Class::Feed,
            Class::OrderAction,
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
    fn no_more_connections_are_used_than_allowed() {
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
