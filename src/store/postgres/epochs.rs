//! The epochs of the store as this node knows them. Beginning one is left to `begin_epoch`.

use std::sync::{Mutex, MutexGuard};

use tokio_postgres::Row;

use super::failure::Failure;
use super::link::Link;
use super::links::Reads;
use super::rows;
use crate::epoch::{EpochIdentity, Token, TokenSecret};
use crate::order::OrderId;
use crate::store::{Epoch, Epochs, FeedPosition};

const READ: &str = include_str!("epochs.sql");

/// Read again whenever an answer names a newest epoch that is not among them.
#[derive(Default)]
pub(super) struct KnownEpochs(Mutex<Option<Epochs>>);

impl KnownEpochs {
    /// The epochs as they were when `newest` was the newest, which is what the answer that names it goes by. An answer of a
    /// server that was left behind goes by its own.
    pub async fn up_to(&self, newest: EpochIdentity, link: &mut Link) -> Result<Epochs, Failure> {
        let known = self.known().as_ref().and_then(|known| known.up_to(newest));
        if let Some(known) = known {
            return Ok(known);
        }
        let missing = || Failure::Unavailable("the server has another history than a moment ago".into());
        self.read_again(link).await?.up_to(newest).ok_or_else(missing)
    }

    /// Reports whether the store gave the token for this order.
    pub async fn gave(&self, order_id: OrderId, token: Token, link: &mut Link) -> Result<bool, Failure> {
        let gave = |epochs: &Epochs| epochs.gave(order_id, token);
        if self.known().as_ref().is_some_and(gave) {
            return Ok(true);
        }
        // Perhaps another node gave it, in an epoch that this one has not heard of.
        Ok(gave(&self.read_again(link).await?))
    }

    async fn read_again(&self, link: &mut Link) -> Result<Epochs, Failure> {
        let read = epochs_of(&link.read(READ, &[]).await?)?;
        *self.known() = Some(read.clone());
        Ok(read)
    }

    fn known(&self) -> MutexGuard<'_, Option<Epochs>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// All that the source shows.
pub(super) async fn read(source: &impl Reads) -> Result<Epochs, Failure> {
    epochs_of(&source.read(READ, &[]).await?)
}

fn epochs_of(found: &[Row]) -> Result<Epochs, Failure> {
    let epochs = found.iter().map(epoch).collect::<Result<_, _>>()?;
    Epochs::of(epochs).ok_or_else(|| Failure::undecodable("epochs", "none"))
}

fn epoch(row: &Row) -> Result<Epoch, Failure> {
    let secret: &[u8] = rows::column(row, 2)?;
    let secret = secret
        .try_into()
        .map_err(|_| Failure::undecodable("a secret", secret.len()))?;
    Ok(Epoch {
        number: rows::large_count(row, 0)?,
        identity: rows::identity(row, 1)?,
        secret: TokenSecret::of(secret),
        first_order_id: OrderId(rows::column(row, 3)?),
        after: FeedPosition(rows::column(row, 4)?),
        began_at: rows::column(row, 5)?,
    })
}
