//! Finds the orders to blame when the database refuses a statement about many of them: by halves, until each part is stored or
//! is one order alone.

use super::failure::Failure;
use crate::order::OrderId;
use crate::store::RefusedOrder;
use crate::store::give_back::LostLease;

/// Parts of what was asked for that are still to be carried out.
pub(super) struct Halves<T> {
    left: Vec<Vec<T>>,
    refused: Vec<(T, Failure)>,
    is_whole: bool,
}

impl<T: Copy> Halves<T> {
    pub fn of(whole: Vec<T>) -> Halves<T> {
        Halves {
            left: vec![whole],
            refused: Vec::new(),
            is_whole: true,
        }
    }

    /// Returns the next part to carry out; the first is the whole.
    pub fn next(&mut self) -> Option<Vec<T>> {
        self.left.pop().filter(|part| !part.is_empty())
    }

    /// Reports whether nothing was halved yet.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Takes back a part at which the database failed. A failure that no single one can be to blame for is returned.
    pub fn failed(&mut self, mut part: Vec<T>, failure: Failure) -> Result<(), Failure> {
        if !failure.may_be_of_one() {
            return Err(failure);
        }
        self.is_whole = false;
        if let [one] = part[..] {
            self.refused.push((one, failure));
        } else {
            let second = part.split_off(part.len() / 2);
            self.left.extend([second, part]);
        }
        Ok(())
    }
}

impl<T: IsOrder> Halves<T> {
    /// Returns the orders that the database refused alone.
    pub fn refused(self, attempted: &'static str) -> Vec<RefusedOrder> {
        let refused = self.refused.into_iter();
        let order = |(one, failure): (T, Failure)| failure.of_order(one.order_id(), attempted);
        refused.map(order).collect()
    }
}

/// Names one order.
pub(super) trait IsOrder {
    fn order_id(&self) -> OrderId;
}

impl IsOrder for i64 {
    fn order_id(&self) -> OrderId {
        OrderId(*self)
    }
}

impl IsOrder for LostLease {
    fn order_id(&self) -> OrderId {
        self.key.order_id
    }
}

impl IsOrder for crate::lease::LeaseKey {
    fn order_id(&self) -> OrderId {
        self.order_id
    }
}
