//! The random steps.

use std::time::Duration;

use orderly::lease::Outcome;
use orderly::order::Member;
use orderly::time::Timestamp;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::make::{failed, retry_after};

#[derive(Clone, Copy, Debug)]
pub enum SetAside {
    No,
    Held,
    /// Until so many steps of 7 s.
    Scheduled(u64),
}

#[derive(Clone, Copy, Debug)]
pub enum Change {
    Keep,
    Remove,
    /// To so many steps of 7 s from now.
    Set(u64),
}

#[derive(Clone, Debug)]
pub enum Step {
    Accept {
        orders: usize,
        set_aside: SetAside,
    },
    Claim {
        by_b: bool,
        orders_max: usize,
        suspect: bool,
    },
    /// Starts orders that the caller chose.
    Start {
        by_b: bool,
        orders: Vec<Index>,
        orders_max: usize,
        suspect: bool,
    },
    /// Any lease ever granted.
    Settle {
        lease: Index,
        outcome: Outcome,
    },
    Renew {
        by_b: bool,
    },
    GiveBack {
        by_b: bool,
    },
    Cancel {
        order: Index,
    },
    Redrive {
        order: Index,
    },
    Hold {
        order: Index,
    },
    Release {
        order: Index,
    },
    Amend {
        order: Index,
        start_after: Change,
        deadline: Change,
        /// With the version before, so that nothing changes.
        stale: bool,
    },
    Milestone {
        order: Index,
    },
    FireTimers,
    Pause(bool),
    /// Advances in steps of 7 s, so that no lease of 30 s ends exactly at a step.
    Advance {
        sevens: u64,
    },
    /// Node B starts orders and falls silent until node A takes them back.
    Crash {
        orders_max: usize,
    },
    Reopen,
}

pub fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        2 => Just(Outcome::COMPLETED),
        2 => (0_u64..4).prop_map(|sevens| retry_after(7 * sevens)),
        1 => Just(failed()),
        1 => Just(Outcome::Released),
        1 => Just(Outcome::GivenBack {
            after: std::time::Duration::from_secs(7),
            error: "no service was there".to_owned(),
        }),
    ];
    prop_oneof![
        4 => (1_usize..4, set_aside()).prop_map(|(orders, set_aside)| Step::Accept { orders, set_aside }),
        6 => (any::<bool>(), 0_usize..5, any::<bool>())
            .prop_map(|(by_b, orders_max, suspect)| Step::Claim { by_b, orders_max, suspect }),
        2 => (any::<bool>(), prop::collection::vec(any::<Index>(), 0..5), 0_usize..5, any::<bool>())
            .prop_map(|(by_b, orders, orders_max, suspect)| Step::Start { by_b, orders, orders_max, suspect }),
        6 => (any::<Index>(), outcome).prop_map(|(lease, outcome)| Step::Settle { lease, outcome }),
        1 => any::<bool>().prop_map(|by_b| Step::Renew { by_b }),
        4 => any::<bool>().prop_map(|by_b| Step::GiveBack { by_b }),
        2 => any::<Index>().prop_map(|order| Step::Cancel { order }),
        3 => any::<Index>().prop_map(|order| Step::Redrive { order }),
        2 => any::<Index>().prop_map(|order| Step::Hold { order }),
        2 => any::<Index>().prop_map(|order| Step::Release { order }),
        3 => (any::<Index>(), change(), change(), prop::bool::weighted(0.1))
            .prop_map(|(order, start_after, deadline, stale)| Step::Amend { order, start_after, deadline, stale }),
        2 => any::<Index>().prop_map(|order| Step::Milestone { order }),
        4 => Just(Step::FireTimers),
        1 => prop::bool::weighted(0.3).prop_map(Step::Pause),
        5 => (1_u64..6).prop_map(|sevens| Step::Advance { sevens }),
        4 => (1_usize..4).prop_map(|orders_max| Step::Crash { orders_max }),
        1 => Just(Step::Reopen),
    ]
}

fn set_aside() -> impl Strategy<Value = SetAside> {
    prop_oneof![
        4 => Just(SetAside::No),
        1 => Just(SetAside::Held),
        2 => (1_u64..6).prop_map(SetAside::Scheduled),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => Just(Change::Keep),
        1 => Just(Change::Remove),
        3 => (0_u64..6).prop_map(Change::Set),
    ]
}

impl Change {
    pub fn from(self, now: Timestamp) -> Member<Timestamp> {
        match self {
            Change::Keep => Member::Keep,
            Change::Remove => Member::Remove,
            Change::Set(sevens) => Member::Set(now.plus(Duration::from_secs(7 * sevens))),
        }
    }
}
