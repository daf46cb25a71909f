//! Index of subscribers by the order or user they follow, so that a change costs work for its subscribers only, not for
//! all of them.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use super::{Change, Filter};
use crate::order::{OrderId, UserId};
use crate::store::{FeedCursor, FeedPosition};

/// Maximum number of changes waiting for one subscriber, 8 bytes each besides the shared change. A subscriber removed
/// in a burst continues from the recent changes in memory.
const QUEUE_CHANGES_MAX: usize = 256;

#[derive(Default)]
pub struct Routes {
    next_number: u64,
    by_order: HashMap<OrderId, Group>,
    by_user: HashMap<UserId, Group>,
    unbound: Group,
}

/// Subscribers by number, for quick removal.
type Group = BTreeMap<u64, Route>;

struct Route {
    filter: Filter,
    queue: mpsc::Sender<Arc<Change>>,
    /// See [`Registration::complete_to`].
    complete_to: Arc<OnceLock<FeedCursor>>,
}

/// A subscriber's end of its queue.
pub struct Registration {
    pub number: u64,
    pub queue: mpsc::Receiver<Arc<Change>>,
    /// Set when the subscriber is removed: with the rest of the queue it has everything up to this position.
    pub complete_to: Arc<OnceLock<FeedCursor>>,
}

/// Outcome of the delivery of one change.
#[derive(Default)]
pub struct Delivery {
    pub delivered: u64,
    pub lagged: u64,
}

impl Routes {
    pub fn add(&mut self, filter: &Filter) -> Registration {
        let (sender, queue) = mpsc::channel(QUEUE_CHANGES_MAX);
        let complete_to = Arc::new(OnceLock::new());
        let number = self.next_number;
        self.next_number += 1;
        let route = Route {
            filter: filter.clone(),
            queue: sender,
            complete_to: complete_to.clone(),
        };
        let group = match (filter.order_id, filter.user_id.clone()) {
            (Some(order_id), _) => self.by_order.entry(order_id).or_default(),
            (None, Some(user_id)) => self.by_user.entry(user_id).or_default(),
            (None, None) => &mut self.unbound,
        };
        group.insert(number, route);
        Registration {
            number,
            queue,
            complete_to,
        }
    }

    pub fn remove(&mut self, filter: &Filter, number: u64) {
        let leave = |group: &mut Group| {
            group.remove(&number);
        };
        match (filter.order_id, &filter.user_id) {
            (Some(order_id), _) => in_group(&mut self.by_order, &order_id, leave),
            (None, Some(user_id)) => in_group(&mut self.by_user, user_id, leave),
            (None, None) => leave(&mut self.unbound),
        }
    }

    /// Removes all subscribers, when later events do not continue from the last position.
    pub fn clear(&mut self) {
        *self = Routes {
            next_number: self.next_number,
            ..Routes::default()
        };
    }

    /// Delivers a change and removes the subscribers whose queue is full.
    pub fn deliver(&mut self, change: &Arc<Change>) -> Delivery {
        let mut delivery = Delivery::default();
        let mut offer = |group: &mut Group| group.retain(|_, route| route.offer(change, &mut delivery));
        in_group(&mut self.by_order, &change.event.event.order_id, &mut offer);
        in_group(&mut self.by_user, &change.event.user_id, &mut offer);
        offer(&mut self.unbound);
        delivery
    }
}

impl Route {
    /// Reports whether the subscriber stays.
    fn offer(&self, change: &Arc<Change>, delivery: &mut Delivery) -> bool {
        if !self.filter.matches(&change.event) {
            return true;
        }
        match self.queue.try_send(change.clone()) {
            Ok(()) => {
                delivery.delivered += 1;
                true
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                delivery.lagged += 1;
                // The subscriber reads it after the end of the queue.
                let before = FeedPosition(change.event.position.0 - 1);
                self.complete_to.get_or_init(|| FeedCursor {
                    epoch: change.epoch,
                    position: before,
                });
                false
            }
            // The subscriber is leaving.
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

fn in_group<K: Eq + Hash>(groups: &mut HashMap<K, Group>, key: &K, change: impl FnOnce(&mut Group)) {
    if let Some(group) = groups.get_mut(key) {
        change(group);
        if group.is_empty() {
            groups.remove(key);
        }
    }
}
