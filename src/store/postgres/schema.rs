//! Brings the schema up to date, or refuses one that this binary does not know. Under a lock, so that of many nodes that
//! start together one does the work; only by messages that any pooler passes on, each step and its transaction in one: a
//! node that freezes while it migrates holds no table, since the server carries out what it has and asks nobody back. What a
//! step does is left to its file.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::sleep;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::answered::{answered, answered_within};
use super::failure::Failure;
use super::functions;
use super::state::State;
use crate::store::migrations::{self, Applied, Step};
use crate::store::opening::{Migration, OpenError};

const STEPS: &[Step] = migrations::steps!("postgres");

/// For one step, or for the lock while another node migrates: a later step may have to read all orders.
const STEP_TIME_MAX: Duration = Duration::from_mins(10);

/// How long a step may wait for a table that somebody reads (`verify`, `copy`, a dump): every statement of the nodes that
/// work meanwhile waits behind it, and they give up after some 5 s.
const TABLE_WAIT_MAX: Duration = Duration::from_secs(2);
/// Between two attempts, for what waited behind the last one.
const TABLE_PAUSE: Duration = Duration::from_secs(3);
/// A reader that takes longer than these together, well over a minute, is to end first.
const TABLE_ATTEMPTS: u32 = 20;

/// What all of it begins with: one migrates, the others wait for as long as a step takes and find it done.
const BEGIN: &str = "begin isolation level read committed; \
    set local statement_timeout = 0; \
    set local lock_timeout = 0; \
    select pg_advisory_xact_lock(7239846511032001)";

/// Making the schema needs a right on the database, so it is not asked for when it is there.
const MAKE: &str = "do 'begin if to_regnamespace(''orderly'') is null then create schema orderly; end if; end'; \
    create table if not exists orderly.migrations ( \
        number integer primary key, name text not null, checksum text not null)";

/// What the node needs to find, looked at over its first connection.
pub(super) struct Schema {
    location: String,
    /// Apply what is missing; otherwise an old schema is refused.
    migrate: bool,
    found: OnceCell<()>,
    /// Why this binary must not work on the database.
    refusal: Mutex<Option<OpenError>>,
}

impl Schema {
    pub fn new(location: String, migrate: bool) -> Schema {
        Schema {
            location,
            migrate,
            found: OnceCell::new(),
            refusal: Mutex::default(),
        }
    }

    /// Reports whether [`Schema::require`] would apply steps.
    pub async fn is_to_apply(&self, client: &Client) -> Result<bool, Failure> {
        if !self.migrate || self.found.initialized() {
            return Ok(false);
        }
        match self.is_current(client).await {
            Ok((_, is_current)) => Ok(!is_current),
            Err(Problem::Failure(failure)) => Err(failure),
            Err(Problem::Refusal(_)) => Ok(false),
        }
    }

    /// Looks once; what was found to be right stays so. Applies what is missing over the second connection.
    pub async fn require(&self, client: &Client, migrating: &Client, state: &State) -> Result<(), Failure> {
        let look = async || match self.bring(client, migrating).await {
            Ok(()) => Ok(()),
            Err(Problem::Failure(failure)) => Err(failure),
            Err(Problem::Refusal(refusal)) => {
                let text = refusal.to_string();
                state.break_down(&text);
                *self.refusal() = Some(refusal);
                Err(Failure::Refused(text.into()))
            }
        };
        self.found.get_or_try_init(look).await.copied()
    }

    /// The reason, once.
    pub fn take_refusal(&self) -> Option<OpenError> {
        self.refusal().take()
    }

    async fn bring(&self, client: &Client, migrating: &Client) -> Result<(), Problem> {
        let (mut migrations, is_current) = self.is_current(client).await?;
        if self.migrate && !is_current {
            migrations = apply(migrating, &self.location).await?;
        }
        migrations::require_current(&self.location, &migrations).map_err(Problem::Refusal)?;
        if self.migrate || is_current {
            return Ok(());
        }
        Err(Problem::Refusal(OpenError::FunctionsMissing {
            location: self.location.clone(),
        }))
    }

    async fn is_current(&self, client: &Client) -> Result<(Vec<Migration>, bool), Problem> {
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

pub(super) enum Problem {
    /// On the way; may pass.
    Failure(Failure),
    /// In the schema.
    Refusal(OpenError),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::Failure(failure)
    }
}

/// All steps and whether they are applied.
pub(super) async fn check(client: &Client, location: &str) -> Result<Vec<Migration>, Problem> {
    // The name as a value: a table that does not exist is no error then.
    let exists = rows(
        client,
        "select 1 where to_regclass('orderly.migrations') is not null",
    )
    .await?;
    let applied = match exists.len() {
        0 => Vec::new(),
        _ => applied(client).await?,
    };
    migrations::compare(location, STEPS, &applied).map_err(Problem::Refusal)
}

/// Reports whether the functions of this build are there.
async fn has_functions(client: &Client) -> Result<bool, Failure> {
    Ok(rows(client, &functions::missing()).await?.is_empty())
}

/// Applies what is missing; answers all steps as they are then.
pub(super) async fn apply(client: &Client, location: &str) -> Result<Vec<Migration>, Problem> {
    for attempt in 1.. {
        let result = apply_steps(client, location).await;
        if result.is_err() {
            // An error here is one of the connection, which ends the transaction as well.
            let _ = answered(client.batch_execute("rollback")).await;
        }
        match result {
            Err(Problem::Failure(Failure::TimedOut(text))) if attempt < TABLE_ATTEMPTS => {
                if attempt == 1 {
                    tracing::info!(
                        "a migration of {location} waits for somebody who reads, trying again: {text}"
                    );
                }
                sleep(TABLE_PAUSE).await;
            }
            Err(Problem::Failure(Failure::TimedOut(text))) => {
                let text = format!(
                    "somebody holds a table of {location} that a migration changes (a verify, a copy, a dump?), \
                     {attempt} attempts were in vain: try again when that has ended ({text})"
                );
                return Err(Problem::Failure(Failure::Unavailable(text.into())));
            }
            result => return result,
        }
    }
    unreachable!("the last attempt answers")
}

async fn apply_steps(client: &Client, location: &str) -> Result<Vec<Migration>, Problem> {
    run(client, &format!("{BEGIN}; {MAKE}; commit")).await?;
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
    // Another node may have been faster.
    check(client, location).await
}

/// Everything of `apply` in one transaction that is rolled back. Waits for no lock longer than a migration does.
pub(super) async fn rehearse(client: &Client) -> Result<(), Failure> {
    let wait = TABLE_WAIT_MAX.as_millis();
    let steps: String = STEPS.iter().flat_map(|step| [step.sql, ";\n"]).collect();
    let statements = format!(
        "begin isolation level read committed; set local lock_timeout = {wait}; {MAKE};\n{steps} {} rollback",
        functions::create()
    );
    answered(client.batch_execute(&statements)).await
}

/// Carries out a step unless another node did so meanwhile, and answers a row if it did. Steps follow each other, so one
/// that is missing under the lock is the next.
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

async fn applied(client: &Client) -> Result<Vec<Applied>, Failure> {
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
                    .map_err(|_| Failure::undecodable("a migration", number))?,
                checksum: checksum.clone(),
            }),
            _ => Err(Failure::undecodable("a migration", "nothing")),
        })
        .collect()
}

/// One message; whether it applied a step.
async fn run(client: &Client, statements: &str) -> Result<bool, Failure> {
    let messages = answered_within(STEP_TIME_MAX, client.simple_query(statements)).await?;
    let mut rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.any(|row| row.columns().iter().any(|column| column.name() == "applied")))
}

async fn rows(client: &Client, statement: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
    let messages = answered(client.simple_query(statement)).await?;
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
    fn steps_are_numbered_from_one_without_holes() {
        for (place, step) in STEPS.iter().enumerate() {
            assert_eq!(step.number as usize, place + 1);
        }
    }

    /// They are carried out as texts in texts.
    #[test]
    fn no_step_holds_what_stands_around_it() {
        for step in STEPS {
            assert!(!step.sql.contains("$step$") && !step.sql.contains("$once$"));
        }
    }
}
