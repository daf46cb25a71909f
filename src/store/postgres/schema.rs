//! Migrates the schema, or refuses one that this binary does not know. A lock lets one of several starting nodes do
//! the work. Only messages that any pooler passes on are used. Each step and its transaction are one message, so a
//! node that freezes while it migrates locks no table: the server runs the whole message without asking back. Each
//! step is in a file of its own.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::sleep;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::await_answer::{await_answer, await_answer_within};
use super::database_state::DatabaseState;
use super::failure::PgFailure;
use super::functions;
use crate::store::migrations::{self, Applied, Step};
use crate::store::opening::{Migration, OpenError};

const STEPS: &[Step] = migrations::steps!("postgres");

/// The limit for one step, and for the lock while another node migrates: a later step may have to read all orders.
const STEP_TIME_MAX: Duration = Duration::from_mins(10);

/// The limit for locking a table that another session reads (`verify`, `copy`, a dump). All statements of working
/// nodes queue behind the step meanwhile, and give up after some 5 s.
const TABLE_WAIT_MAX: Duration = Duration::from_secs(2);
/// The pause between two attempts, for the statements that queued behind the last one.
const TABLE_PAUSE: Duration = Duration::from_secs(3);
/// The attempts, together well over a minute. A reader that takes longer must end first.
const TABLE_ATTEMPTS: u32 = 20;

/// The beginning of every message: one node migrates; the others wait as long as a step takes, and find it done.
const BEGIN: &str = "begin isolation level read committed; \
    set local statement_timeout = 0; \
    set local lock_timeout = 0; \
    select pg_advisory_xact_lock(7239846511032001)";

/// Creates the schema and its table. Creating a schema needs a right on the database, so it is only attempted when it
/// is missing.
const CREATE: &str = "do 'begin if to_regnamespace(''orderly'') is null then create schema orderly; end if; end'; \
    create table if not exists orderly.migrations ( \
        number integer primary key, name text not null, checksum text not null)";

/// The schema that the node needs. It is checked over the first connection.
pub(super) struct Schema {
    location: String,
    /// Missing steps are applied; otherwise an old schema is refused.
    migrate: bool,
    is_right: OnceCell<()>,
    /// The reason why this binary must not work on the database.
    refusal: Mutex<Option<OpenError>>,
}

impl Schema {
    pub fn new(location: String, migrate: bool) -> Schema {
        Schema {
            location,
            migrate,
            is_right: OnceCell::new(),
            refusal: Mutex::default(),
        }
    }

    /// Reports whether [`Schema::require`] would apply steps.
    pub async fn is_to_apply(&self, client: &Client) -> Result<bool, PgFailure> {
        if !self.migrate || self.is_right.initialized() {
            return Ok(false);
        }
        match self.is_current(client).await {
            Ok((_, is_current)) => Ok(!is_current),
            Err(SchemaProblem::Database(failure)) => Err(failure),
            Err(SchemaProblem::Refusal(_)) => Ok(false),
        }
    }

    /// Checks the schema once; a right schema is not checked again. Applies missing steps over the second connection.
    pub async fn require(
        &self,
        client: &Client,
        migrating: &Client,
        state: &DatabaseState,
    ) -> Result<(), PgFailure> {
        let check = async || match self.update(client, migrating).await {
            Ok(()) => Ok(()),
            Err(SchemaProblem::Database(failure)) => Err(failure),
            Err(SchemaProblem::Refusal(refusal)) => {
                let text = refusal.to_string();
                state.break_down(&text);
                *self.refusal() = Some(refusal);
                Err(PgFailure::Refused(text.into()))
            }
        };
        self.is_right.get_or_try_init(check).await.copied()
    }

    /// Takes the reason for the refusal.
    pub fn take_refusal(&self) -> Option<OpenError> {
        self.refusal().take()
    }

    async fn update(&self, client: &Client, migrating: &Client) -> Result<(), SchemaProblem> {
        let (mut migrations, is_current) = self.is_current(client).await?;
        if self.migrate && !is_current {
            migrations = apply(migrating, &self.location).await?;
        }
        migrations::require_current(&self.location, &migrations).map_err(SchemaProblem::Refusal)?;
        if self.migrate || is_current {
            return Ok(());
        }
        Err(SchemaProblem::Refusal(OpenError::FunctionsMissing {
            location: self.location.clone(),
        }))
    }

    async fn is_current(&self, client: &Client) -> Result<(Vec<Migration>, bool), SchemaProblem> {
        let migrations = check(client, &self.location).await?;
        let is_current = migrations.iter().all(|step| step.applied) && has_functions(client).await?;
        Ok((migrations, is_current))
    }

    fn refusal(&self) -> MutexGuard<'_, Option<OpenError>> {
        self.refusal
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

/// The reason why the schema cannot be used.
pub(super) enum SchemaProblem {
    /// The database failed; it may recover.
    Database(PgFailure),
    /// The schema itself is refused.
    Refusal(OpenError),
}

impl From<PgFailure> for SchemaProblem {
    fn from(failure: PgFailure) -> SchemaProblem {
        SchemaProblem::Database(failure)
    }
}

/// Returns all steps, and whether they are applied.
pub(super) async fn check(client: &Client, location: &str) -> Result<Vec<Migration>, SchemaProblem> {
    // The table's name is passed as a value, so that a missing table is no error.
    let exists = rows(
        client,
        "select 1 where to_regclass('orderly.migrations') is not null",
    )
    .await?;
    let applied = match exists.len() {
        0 => Vec::new(),
        _ => applied(client).await?,
    };
    migrations::compare(location, STEPS, &applied).map_err(SchemaProblem::Refusal)
}

/// Reports whether the functions of this build are there.
async fn has_functions(client: &Client) -> Result<bool, PgFailure> {
    Ok(rows(client, &functions::missing()).await?.is_empty())
}

/// Applies missing steps. Returns all steps as they are then.
pub(super) async fn apply(client: &Client, location: &str) -> Result<Vec<Migration>, SchemaProblem> {
    for attempt in 1.. {
        let result = apply_steps(client, location).await;
        if result.is_err() {
            // A failed rollback means a lost connection, which ends the transaction as well.
            let _ = await_answer(client.batch_execute("rollback")).await;
        }
        match result {
            Err(SchemaProblem::Database(PgFailure::TimedOut(text))) if attempt < TABLE_ATTEMPTS => {
                if attempt == 1 {
                    tracing::info!(
                        "a migration of {location} waits for a session that reads; trying again: {text}"
                    );
                }
                sleep(TABLE_PAUSE).await;
            }
            Err(SchemaProblem::Database(PgFailure::TimedOut(text))) => {
                let text = format!(
                    "another session has locked a table of {location} that a migration changes (a verify, a copy, a dump?); \
                     gave up after {attempt} attempts, try again when it has ended ({text})"
                );
                return Err(SchemaProblem::Database(PgFailure::Unavailable(text.into())));
            }
            result => return result,
        }
    }
    unreachable!("the last attempt answers")
}

async fn apply_steps(client: &Client, location: &str) -> Result<Vec<Migration>, SchemaProblem> {
    run(client, &format!("{BEGIN}; {CREATE}; commit")).await?;
    for step in check(client, location).await? {
        if step.applied {
            continue;
        }
        let step = &STEPS[(step.number - 1) as usize];
        if run(client, &message(step)).await? {
            let Step { number, name, .. } = step;
            tracing::info!("applied migration {number} ({name}) to {location}");
        }
    }
    if !has_functions(client).await? {
        run(client, &format!("{BEGIN}; {} commit", functions::create())).await?;
    }
    // Another node may have applied the step first.
    check(client, location).await
}

/// Runs everything that [`apply`] runs in one transaction that is rolled back. Waits for locks no longer than a
/// migration does.
pub(super) async fn rehearse(client: &Client) -> Result<(), PgFailure> {
    let wait = TABLE_WAIT_MAX.as_millis();
    let steps: String = STEPS.iter().flat_map(|step| [step.sql, ";\n"]).collect();
    let statements = format!(
        "begin isolation level read committed; set local lock_timeout = {wait}; {CREATE};\n{steps} {} rollback",
        functions::create()
    );
    await_answer(client.batch_execute(&statements)).await
}

/// Makes the message of a step. It does nothing if another node was faster, and returns a row if it applied the step.
/// Steps build on each other, so the first one missing under the lock is the next.
fn message(step: &Step) -> String {
    let Step { number, name, sql } = step;
    let (checksum, wait) = (step.checksum(), TABLE_WAIT_MAX.as_millis());
    format!(
        "{BEGIN}; \
         set local lock_timeout = {wait}; \
         do $once$ begin if not exists (select from orderly.migrations where number = {number}) then \
             execute $step${sql}$step$; \
         end if; end $once$; \
         insert into orderly.migrations values ({number}, '{name}', '{checksum}') \
             on conflict do nothing returning number as applied; \
         commit"
    )
}

async fn applied(client: &Client) -> Result<Vec<Applied>, PgFailure> {
    let rows = rows(
        client,
        "select number, checksum from orderly.migrations order by number",
    )
    .await?;
    rows.into_iter()
        .map(|row| match &row[..] {
            [Some(number), Some(checksum)] => Ok(Applied {
                number: number
                    .parse()
                    .map_err(|_| PgFailure::undecodable("a migration", number))?,
                checksum: checksum.clone(),
            }),
            _ => Err(PgFailure::undecodable("a migration", "nothing")),
        })
        .collect()
}

/// Sends a message and reports whether it applied a step.
async fn run(client: &Client, statements: &str) -> Result<bool, PgFailure> {
    let messages = await_answer_within(STEP_TIME_MAX, client.simple_query(statements)).await?;
    let mut rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.any(|row| row.columns().iter().any(|column| column.name() == "applied")))
}

async fn rows(client: &Client, statement: &str) -> Result<Vec<Vec<Option<String>>>, PgFailure> {
    let messages = await_answer(client.simple_query(statement)).await?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|index| row.get(index).map(str::to_owned))
                .collect(),
        ),
        _ => None,
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_from_one_without_gaps() {
        for (place, step) in STEPS.iter().enumerate() {
            assert_eq!(step.number as usize, place + 1);
        }
    }

    /// The texts are quoted within other texts.
    #[test]
    fn no_step_contains_its_delimiters() {
        for step in STEPS {
            assert!(!step.sql.contains("$step$") && !step.sql.contains("$once$"));
        }
    }
}
