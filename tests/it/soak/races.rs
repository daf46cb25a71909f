//! Actions that race on one order; `cargo xtask soak races` runs ten thousand races on each store. Whatever the order in which they
//! happen, each that was answered with success has its event, versions have no gap, and the last amendment is what the order shows.

use futures_util::future::join_all;
use orderly::event::EventKind;
use orderly::lease::Outcome;
use orderly::order::{Member, OrderId, OrderStatus, Patch, Reference};
use orderly::store::{Acted, Amended, RedriveOptions, Settled};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::crash::load::seed;
use crate::soak::in_full;
use crate::support::Harness;
use crate::support::make::{NODE_A, claim_by, failed};

const RACES: usize = 10_000;
const RACES_OF_A_SLICE: usize = 100;
/// Actions in one race.
const ACTIONS: usize = 6;

#[derive(Clone, Copy, Debug)]
enum Action {
    Amend,
    Hold,
    Release,
    Cancel,
    Retry,
    Milestone,
    Complete,
    Fail,
}

const ALL: [Action; 8] = [
    Action::Amend,
    Action::Hold,
    Action::Release,
    Action::Cancel,
    Action::Retry,
    Action::Milestone,
    Action::Complete,
    Action::Fail,
];

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_in_races_on_one_order() {
    race_on(Harness::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_in_races_on_one_order_on_postgres() {
    if let Some(harness) = Harness::postgres().await {
        race_on(harness).await;
    }
}

async fn race_on(harness: Harness) {
    let races = if in_full() { RACES } else { RACES_OF_A_SLICE };
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    for race in 0..races {
        let actions: Vec<Action> = (0..ACTIONS)
            .map(|_| ALL[rng.random_range(0..ALL.len())])
            .collect();
        let id = harness.accept_one().await;
        let racing = actions
            .iter()
            .zip(0..)
            .map(|(action, place)| act(&harness, id, *action, place));
        let done = join_all(racing).await;
        check(
            &harness,
            id,
            &done,
            &format!("seed {seed}, race {race}: {actions:?}"),
        )
        .await;
        // Later claims find nothing of this race.
        harness.store().cancel(id, None).await.unwrap();
    }
    harness.assert_sound().await;
    harness.store().close().await;
}

/// What an action was told: the kind of its event, if it changed the order, and the version and reference of an amendment.
#[derive(Debug)]
enum Told {
    Nothing,
    /// It may have changed nothing: the order was so before.
    Perhaps(EventKind),
    Changed(EventKind),
    Amended {
        version: u32,
        reference: String,
    },
}

async fn act(harness: &Harness, id: OrderId, action: Action, place: usize) -> Told {
    let store = harness.store();
    let perhaps = |acted: Acted, kind| match acted {
        Acted::Done(_) => Told::Perhaps(kind),
        Acted::Refused(_) | Acted::TooManyEvents(_) | Acted::Unknown => Told::Nothing,
    };
    match action {
        Action::Amend => {
            let reference = format!("amendment {place}");
            let patch = Patch {
                reference: Member::Set(Reference::parse(&reference).unwrap()),
                ..Patch::default()
            };
            let version = harness.order(id).await.version;
            match store.amend(id, version, patch).await.unwrap() {
                Amended::Done(_) => Told::Amended {
                    version: version + 1,
                    reference,
                },
                Amended::Moved(_) | Amended::Refused(_) => Told::Nothing,
                other => panic!("{other:?}"),
            }
        }
        Action::Hold => perhaps(store.hold(id, None).await.unwrap(), EventKind::Held),
        Action::Release => perhaps(store.release(id, None).await.unwrap(), EventKind::Unheld),
        Action::Cancel => perhaps(store.cancel(id, None).await.unwrap(), EventKind::Cancelled),
        Action::Retry => perhaps(
            store.redrive(id, RedriveOptions::default()).await.unwrap(),
            EventKind::Redriven,
        ),
        Action::Milestone => {
            harness.milestone(id, "packed").await;
            Told::Changed(EventKind::Milestone)
        }
        Action::Complete => attempt(harness, Outcome::COMPLETED, EventKind::Completed).await,
        Action::Fail => attempt(harness, failed(), EventKind::Failed).await,
    }
}

/// Starts the order, if it may start, and ends its attempt.
async fn attempt(harness: &Harness, outcome: Outcome, kind: EventKind) -> Told {
    let claimed = harness.store().claim(claim_by(NODE_A, 1)).await.unwrap();
    let Some(lease) = claimed.leases.first() else {
        return Told::Nothing;
    };
    match harness.store().settle(lease.key(), outcome).await.unwrap() {
        Settled::Done(_) => Told::Changed(kind),
        Settled::Stale => Told::Nothing,
    }
}

async fn check(harness: &Harness, id: OrderId, told: &[Told], race: &str) {
    let order = harness.order(id).await;
    let events = harness.history(id, 0).await;
    let versions: Vec<u32> = events.iter().map(|event| event.version).collect();
    assert_eq!(versions, (1..=order.version).collect::<Vec<_>>(), "{race}");
    let mut status = None;
    for event in &events {
        status = OrderStatus::after(status, event.kind);
        assert_eq!(status, Some(event.status), "{race}: {events:?}");
    }
    assert_eq!(status, Some(order.status), "{race}");
    let counted = |kind: EventKind| events.iter().filter(|event| event.kind == kind).count();
    for kind in [EventKind::Milestone, EventKind::Completed, EventKind::Failed] {
        let changed = |told: &&Told| matches!(told, Told::Changed(changed) if *changed == kind);
        assert_eq!(
            counted(kind),
            told.iter().filter(changed).count(),
            "{race}: {kind:?}"
        );
    }
    for kind in [
        EventKind::Held,
        EventKind::Unheld,
        EventKind::Cancelled,
        EventKind::Redriven,
    ] {
        let perhaps = |told: &&Told| matches!(told, Told::Perhaps(perhaps) if *perhaps == kind);
        assert!(
            counted(kind) <= told.iter().filter(perhaps).count(),
            "{race}: {kind:?}"
        );
    }
    let mut amended: Vec<(u32, &str)> = told
        .iter()
        .filter_map(|told| match told {
            Told::Amended { version, reference } => Some((*version, reference.as_str())),
            _ => None,
        })
        .collect();
    amended.sort_unstable();
    let amendments = events.iter().filter(|event| event.kind == EventKind::Amended);
    let at: Vec<u32> = amendments.map(|event| event.version).collect();
    let told_at: Vec<u32> = amended.iter().map(|(version, _)| *version).collect();
    assert_eq!(at, told_at, "{race}");
    let shown = order.request.reference.as_ref().map(Reference::as_str);
    assert_eq!(shown, amended.last().map(|(_, reference)| *reference), "{race}");
}
