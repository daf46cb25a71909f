//! Amendments: the members of an order that a client changes.

use super::{Items, NewOrder, Reference, merge_patch};
use crate::money::Money;
use crate::time::Timestamp;

/// A change of an optional member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Member<T> {
    #[default]
    Keep,
    Remove,
    Set(T),
}

impl<T> Member<T> {
    /// The change that leads to this value.
    pub fn of(value: Option<T>) -> Member<T> {
        value.map_or(Member::Remove, Member::Set)
    }

    fn apply(self, member: &mut Option<T>) {
        match self {
            Member::Keep => {}
            Member::Remove => *member = None,
            Member::Set(value) => *member = Some(value),
        }
    }
}

/// The members that an amendment sets or removes; the others stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    pub items: Option<Items>,
    /// With the decimals of the order's currency.
    pub total_amount: Option<Money>,
    pub reference: Member<Reference>,
    /// A merge patch of the metadata.
    pub metadata: Member<Box<str>>,
    pub start_after: Member<Timestamp>,
    pub deadline: Member<Timestamp>,
}

/// A member that an amendment changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmendedField {
    Items,
    ItemIds,
    TotalAmount,
    Reference,
    Metadata,
    StartAfter,
    Deadline,
}

impl AmendedField {
    pub const ALL: [AmendedField; 7] = [
        AmendedField::Items,
        AmendedField::ItemIds,
        AmendedField::TotalAmount,
        AmendedField::Reference,
        AmendedField::Metadata,
        AmendedField::StartAfter,
        AmendedField::Deadline,
    ];

    pub fn name(self) -> &'static str {
        match self {
            AmendedField::Items => "items",
            AmendedField::ItemIds => "item_ids",
            AmendedField::TotalAmount => "total_amount",
            AmendedField::Reference => "reference",
            AmendedField::Metadata => "metadata",
            AmendedField::StartAfter => "start_after",
            AmendedField::Deadline => "deadline",
        }
    }

    pub fn parse(name: &str) -> Option<AmendedField> {
        AmendedField::ALL.into_iter().find(|field| field.name() == name)
    }
}

impl Patch {
    /// Returns the amended request and the members that differ.
    pub fn apply(mut self, request: &NewOrder) -> (NewOrder, Vec<AmendedField>) {
        let mut amended = request.clone();
        if let Some(items) = self.items {
            amended.items = items;
        }
        if let Some(amount) = self.total_amount {
            amended.total_amount = amount;
        }
        self.reference.apply(&mut amended.reference);
        if let Member::Set(patch) = &mut self.metadata {
            let before = amended.metadata.as_deref().unwrap_or("{}");
            *patch = merge_patch::merged(before, patch).into();
        }
        self.metadata.apply(&mut amended.metadata);
        self.start_after.apply(&mut amended.start_after);
        self.deadline.apply(&mut amended.deadline);
        let items = if amended.items.lines().is_some() {
            AmendedField::Items
        } else {
            AmendedField::ItemIds
        };
        let fields = [
            (items, amended.items != request.items),
            (
                AmendedField::TotalAmount,
                amended.total_amount != request.total_amount,
            ),
            (AmendedField::Reference, amended.reference != request.reference),
            (AmendedField::Metadata, amended.metadata != request.metadata),
            (
                AmendedField::StartAfter,
                amended.start_after != request.start_after,
            ),
            (AmendedField::Deadline, amended.deadline != request.deadline),
        ];
        let differing = fields.into_iter().filter(|(_, differs)| *differs);
        let differing = differing.map(|(field, _)| field).collect();
        (amended, differing)
    }
}
