//! The epochs of the store as this node knows them. `begin_epoch` begins new ones.

use std::sync::{Mutex, MutexGuard};

use tokio_postgres::Row;

use super::class_connection::ClassConnection;
use super::class_pool::ReadSource;
use super::failure::PgFailure;
use super::rows;
use crate::epoch::{EpochIdentity, Token, TokenSecret};
use crate::order::OrderId;
use crate::store::{Epoch, Epochs, FeedPosition};

const READ: &str = include_str!("epochs.sql");

/// The known epochs, read again whenever an answer names a newer one.
#[derive(Default)]
pub(super) struct KnownEpochs(Mutex<Option<Epochs>>);

impl KnownEpochs {
    /// Returns the epochs up to `newest`, the epoch by which an answer goes. Fails when the store does not have it: a
    /// server that was left behind goes by its own.
    pub async fn up_to(
        &self,
        newest: EpochIdentity,
        connection: &mut ClassConnection,
    ) -> Result<Epochs, PgFailure> {
        let known = self.known().as_ref().and_then(|known| known.up_to(newest));
        if let Some(known) = known {
            return Ok(known);
        }
        let missing = || PgFailure::Unavailable("the history of the server has changed".into());
        self.read_again(connection)
            .await?
            .up_to(newest)
            .ok_or_else(missing)
    }

    /// Reports whether the store gave the token for this order.
    pub async fn gave(
        &self,
        order_id: OrderId,
        token: Token,
        connection: &mut ClassConnection,
    ) -> Result<bool, PgFailure> {
        let gave = |epochs: &Epochs| epochs.gave(order_id, token);
        if self.known().as_ref().is_some_and(gave) {
            return Ok(true);
        }
        // Another node may have given it out in an epoch that this node does not know yet.
        Ok(gave(&self.read_again(connection).await?))
    }

    async fn read_again(&self, connection: &mut ClassConnection) -> Result<Epochs, PgFailure> {
        let read = epochs_of(&connection.read(READ, &[]).await?)?;
        *self.known() = Some(read.clone());
        Ok(read)
    }

    fn known(&self) -> MutexGuard<'_, Option<Epochs>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// Reads all epochs.
pub(super) async fn read(source: &impl ReadSource) -> Result<Epochs, PgFailure> {
    epochs_of(&source.read(READ, &[]).await?)
}

fn epochs_of(found: &[Row]) -> Result<Epochs, PgFailure> {
    let epochs = found.iter().map(epoch).collect::<Result<_, _>>()?;
    Epochs::of(epochs).ok_or_else(|| PgFailure::undecodable("epochs", "none"))
}

fn epoch(row: &Row) -> Result<Epoch, PgFailure> {
    let secret: &[u8] = rows::column(row, 2)?;
    let secret = secret
        .try_into()
        .map_err(|_| PgFailure::undecodable("a secret", secret.len()))?;
    Ok(Epoch {
        number: rows::large_count(row, 0)?,
        identity: rows::identity(row, 1)?,
        secret: TokenSecret::of(secret),
        first_order_id: OrderId(rows::column(row, 3)?),
        after: FeedPosition(rows::column(row, 4)?),
        began_at: rows::column(row, 5)?,
    })
}
