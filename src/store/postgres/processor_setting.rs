//! The processor setting, which all nodes of a store share. A node configured for another processor than the live
//! nodes starts nothing: it would end orders without their intended effect.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use super::advisory_locks::CLAIM_LOCK;
use super::class_connection::ClassConnection;
use super::failure::PgFailure;
use super::message::with_numbers;
use super::rows;
use crate::lease::{NodeId, ProcessorKind};
use crate::store::codes;

/// The limit for the change, which waits for the claim under way; the statement's own limit is slightly shorter.
const SET_TIME_MAX: Duration = Duration::from_secs(10);

/// Sets the store's processor to that of this node. Fails while another live node is configured differently.
pub(super) async fn set_processor(
    connection: &mut ClassConnection,
    processor: ProcessorKind,
    node: NodeId,
) -> Result<(), PgFailure> {
    connection.state().require_known_nodes()?;
    let message = with_numbers(
        include_str!("set_processor.sql"),
        &[
            (":processor", codes::processor_code(processor).into()),
            (":lock", CLAIM_LOCK),
            (":node", rows::node_code(node)),
        ],
    );
    // Running twice does no harm, so the next claim asks again after a lost answer.
    let answer = connection.send_message_once(&message, SET_TIME_MAX).await?;
    let stored = answer.iter().find_map(stored_processor);
    if stored == Some(processor) {
        return Ok(());
    }
    let others = stored.map_or("another one", ProcessorKind::name);
    let text = format!(
        "ORDERLY_PROCESSOR is {others} on other live nodes of this store and {} on this one: \
         this one starts no order until they are gone",
        processor.name()
    );
    Err(PgFailure::Unavailable(text.into()))
}

fn stored_processor(message: &SimpleQueryMessage) -> Option<ProcessorKind> {
    let SimpleQueryMessage::Row(row) = message else {
        return None;
    };
    let column = row.columns().first()?;
    let code = row.get(0).filter(|_| column.name() == "processor")?;
    codes::processor_of(code.parse().ok()?)
}
