//! All nodes of a store have the same processor. A node that was told another one than the live nodes starts nothing:
//! it would end orders without the effect that they are meant to have.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use super::failure::Failure;
use super::link::Link;
use super::locks::CLAIM_LOCK;
use super::message::with_numbers;
use super::rows;
use crate::lease::{NodeId, ProcessorKind};
use crate::store::codes;

/// The longest time for the change, which waits for the claim under way; the statement's own limit is a little shorter.
const SET_TIME_MAX: Duration = Duration::from_secs(10);

/// Makes the store's processor what this node was told; an error while a node lives that was told otherwise.
pub(super) async fn set_processor(
    link: &mut Link,
    processor: ProcessorKind,
    node: NodeId,
) -> Result<(), Failure> {
    link.state().require_known_nodes()?;
    let message = with_numbers(
        include_str!("set_processor.sql"),
        &[
            (":processor", codes::processor_code(processor).into()),
            (":lock", CLAIM_LOCK),
            (":node", rows::node_code(node)),
        ],
    );
    // Done twice it does no harm, so a lost answer is asked for again by the next claim.
    let answer = link.fly(&message, SET_TIME_MAX).await?;
    let stored = answer.iter().find_map(stored_processor);
    if stored == Some(processor) {
        return Ok(());
    }
    let others = stored.map_or("another one", ProcessorKind::name);
    let text = format!(
        "other nodes of this store live whose ORDERLY_PROCESSOR is {others}, here it is {}: \
         this one starts no order until they are gone",
        processor.name()
    );
    Err(Failure::Unavailable(text.into()))
}

fn stored_processor(message: &SimpleQueryMessage) -> Option<ProcessorKind> {
    let SimpleQueryMessage::Row(row) = message else {
        return None;
    };
    let column = row.columns().first()?;
    let code = row.get(0).filter(|_| column.name() == "processor")?;
    codes::processor_of(code.parse().ok()?)
}
