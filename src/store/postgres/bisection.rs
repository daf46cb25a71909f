//! Finds the orders to blame when the database refuses a statement about many of them: halves the set until each part
//! is stored or is a single order.

use super::failure::PgFailure;
use crate::order::OrderId;
use crate::store::RefusedOrder;
use crate::store::give_back::LostLease;

/// The parts of a set of orders that still have to be processed.
pub(super) struct Bisection<T> {
    remaining: Vec<Vec<T>>,
    refused: Vec<(T, PgFailure)>,
    is_whole: bool,
}

impl<T: Copy> Bisection<T> {
    pub fn of(whole: Vec<T>) -> Bisection<T> {
        Bisection {
            remaining: vec![whole],
            refused: Vec::new(),
            is_whole: true,
        }
    }

    /// Returns the next part to process; the first is the whole set.
    pub fn next_part(&mut self) -> Option<Vec<T>> {
        self.remaining.pop().filter(|part| !part.is_empty())
    }

    /// Reports whether the set has not been split yet.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Takes back a part that the database refused, and splits it. Returns a failure that no single order can cause.
    pub fn split_refused(&mut self, mut part: Vec<T>, failure: PgFailure) -> Result<(), PgFailure> {
        if !failure.may_concern_one_call() {
            return Err(failure);
        }
        self.is_whole = false;
        if let [one] = part[..] {
            self.refused.push((one, failure));
        } else {
            let second = part.split_off(part.len() / 2);
            self.remaining.extend([second, part]);
        }
        Ok(())
    }
}

impl<T: HasOrderId> Bisection<T> {
    /// Returns the orders that the database refused on their own.
    pub fn refused(self, attempted: &'static str) -> Vec<RefusedOrder> {
        let refused = self.refused.into_iter();
        let order = |(one, failure): (T, PgFailure)| failure.refusal_of_order(one.order_id(), attempted);
        refused.map(order).collect()
    }
}

/// A value about a single order.
pub(super) trait HasOrderId {
    fn order_id(&self) -> OrderId;
}

impl HasOrderId for i64 {
    fn order_id(&self) -> OrderId {
        OrderId(*self)
    }
}

impl HasOrderId for LostLease {
    fn order_id(&self) -> OrderId {
        self.key.order_id
    }
}

impl HasOrderId for crate::lease::LeaseKey {
    fn order_id(&self) -> OrderId {
        self.order_id
    }
}
