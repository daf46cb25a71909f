//! Everything measured under one load: the server under test and its yardsticks, one at a time.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::load::{Drive, Driven, drive};
use super::raw_store::RawStore;
use super::report::{Processing, Round};
use super::script::{Caller, Script};
use super::statistics::per_second;
use super::{Kind, Load, Plan, Rate, Target, disk, target};

/// Maximum warm-up of each server before the first round; at most a round.
const WARM_UP_TIME_MAX: Duration = Duration::from_secs(1);
/// Maximum time for the disk and the store alone, whose rates stabilize quickly.
const DISK_TIME_MAX: Duration = Duration::from_secs(1);
const STORE_TIME_MAX: Duration = Duration::from_secs(2);
/// Growth of running orders that does not count as a growing queue: this number plus a share of the accepted orders.
const UNDER_WAY_ORDERS: u64 = 1_000;
const UNDER_WAY_SHARE: u64 = 50;

/// Scripts for each server.
pub struct Scripts {
    orderly: Arc<Script>,
    nothing: Arc<Script>,
    one_insert: Option<Arc<Script>>,
}

impl Scripts {
    /// Creates the scripts and prepares the server under test: its queue, and orders to read.
    pub async fn of(
        plan: &Plan,
        load: Load,
        orderly: &Caller,
        nothing: &Caller,
        one_insert: Option<&Caller>,
    ) -> anyhow::Result<Scripts> {
        let script = |caller: &Caller, ids: &[i64]| match load {
            Load::Batch => Script::batch(caller, plan.batch_size, plan.users),
            Load::Status => Script::status(caller, ids),
            Load::Mixed => Script::mixed(caller, plan.users),
            Load::Accept | Load::EndToEnd | Load::Drain | Load::Pickup => Script::accept(caller, plan.users),
        };
        let ids = match load {
            Load::Status => target::stock(orderly, plan.users).await?,
            _ => Vec::new(),
        };
        let is_own = !matches!(plan.target, Target::Running(_));
        if is_own && let Load::Accept | Load::Batch = load {
            target::set_paused(orderly, true).await?;
        }
        Ok(Scripts {
            orderly: script(orderly, &ids).into(),
            nothing: script(nothing, &ids).into(),
            one_insert: one_insert.map(|caller| Script::accept(caller, plan.users).into()),
        })
    }
}

/// All that is measured under one load.
pub struct Subjects<'a> {
    pub plan: &'a Plan,
    pub load: Load,
    pub connections: usize,
    pub orderly: Caller,
    pub scripts: Scripts,
    pub store: Option<RawStore>,
    pub folder: &'a Path,
}

impl Subjects<'_> {
    /// Returns the kinds in measuring order.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![Kind::Orderly];
        if self.load != Load::Pickup {
            kinds.push(Kind::Nothing);
            kinds.extend(self.scripts.one_insert.is_some().then_some(Kind::OneInsert));
        }
        kinds.extend(self.store.is_some().then_some(Kind::Store));
        kinds.push(Kind::Disk);
        kinds
    }

    pub async fn warm_up(&self) -> anyhow::Result<()> {
        let time = self.plan.time.min(WARM_UP_TIME_MAX);
        let Scripts {
            orderly,
            nothing,
            one_insert,
        } = &self.scripts;
        for script in [Some(orderly), Some(nothing), one_insert.as_ref()]
            .into_iter()
            .flatten()
        {
            self.drive(script, time, None).await?;
        }
        Ok(())
    }

    /// Returns the request rate of this round's open loop.
    pub async fn rate(&self) -> anyhow::Result<Option<f64>> {
        match self.plan.rate.filter(|_| self.load.takes_rate()) {
            None => Ok(None),
            Some(Rate::PerSecond(rate)) => Ok(Some(rate)),
            Some(Rate::OfPeak(share)) => {
                let driven = self.drive(&self.scripts.orderly, self.plan.time, None).await?;
                let peak = per_second(driven.in_time, self.plan.time);
                ensure!(
                    peak > 0.0,
                    "no request was answered in time, so there is no peak rate"
                );
                Ok(Some(peak * share))
            }
        }
    }

    /// Measures a kind while the server has no earlier orders left, and lets it finish before the next kind.
    pub async fn measure_alone(
        &self,
        kind: Kind,
        rate: Option<f64>,
        notes: &mut Vec<String>,
    ) -> anyhow::Result<Round> {
        let processes = match self.load {
            Load::EndToEnd | Load::Mixed | Load::Drain | Load::Pickup => true,
            Load::Accept | Load::Batch | Load::Status => false,
        };
        // A running server has orders of other clients, which may take time.
        let is_own = !matches!(self.plan.target, Target::Running(_));
        let waits = kind == Kind::Orderly && processes && is_own;
        if waits {
            target::emptied(&self.orderly).await?;
        }
        let round = self.measure(kind, rate, notes).await?;
        if waits {
            target::emptied(&self.orderly).await?;
        }
        Ok(round)
    }

    async fn measure(&self, kind: Kind, rate: Option<f64>, notes: &mut Vec<String>) -> anyhow::Result<Round> {
        let time = self.plan.time;
        let scripts = &self.scripts;
        let (driven, time, orders) = match (kind, self.load, &self.store, &scripts.one_insert) {
            (Kind::Orderly, Load::EndToEnd, ..) => return self.end_to_end(rate, notes).await,
            (Kind::Orderly, Load::Drain, ..) => return self.drain().await,
            (Kind::Orderly, Load::Pickup, ..) => return self.pick_up().await,
            (Kind::Orderly, ..) => {
                let script = &scripts.orderly;
                (
                    self.drive(script, time, rate).await?,
                    time,
                    script.orders_per_request,
                )
            }
            (Kind::Nothing, ..) => {
                let script = &scripts.nothing;
                (
                    self.drive(script, time, rate).await?,
                    time,
                    script.orders_per_request,
                )
            }
            (Kind::OneInsert, _, _, Some(script)) => (self.drive(script, time, rate).await?, time, 1),
            (Kind::Store, load, Some(store), _) => {
                let time = time.min(STORE_TIME_MAX);
                let orders = if load == Load::Batch {
                    self.plan.batch_size
                } else {
                    1
                };
                (
                    store
                        .accept(self.connections, orders, self.plan.users, time)
                        .await?,
                    time,
                    orders as u64,
                )
            }
            (Kind::Disk | Kind::OneInsert | Kind::Store, ..) => {
                let time = time.min(DISK_TIME_MAX);
                (disk::sync(self.folder, time).await?, time, 1)
            }
        };
        note_refusal(kind, &driven, notes);
        Ok(round(
            &driven,
            per_second(driven.in_time * orders, time),
            rate_of(kind, rate),
        ))
    }

    async fn end_to_end(&self, rate: Option<f64>, notes: &mut Vec<String>) -> anyhow::Result<Round> {
        let before = target::numbers(&self.orderly).await?;
        let started = Instant::now();
        let driven = self.drive(&self.scripts.orderly, self.plan.time, rate).await?;
        let after = target::numbers(&self.orderly).await?;
        let completed = per_second(
            after.completed.saturating_sub(before.completed),
            started.elapsed(),
        );
        note_refusal(Kind::Orderly, &driven, notes);
        let accepted = per_second(driven.in_time, self.plan.time);
        let under_way = UNDER_WAY_ORDERS.max(driven.answered / UNDER_WAY_SHARE);
        let processing = Processing {
            accepted_per_second: accepted,
            completed_per_second: completed,
            queue_growth: after.open.cast_signed() - before.open.cast_signed(),
            queue_grew: after.open > before.open + under_way,
            start_p50_ms: None,
            start_p99_ms: None,
        };
        // The sustained rate is the lower one.
        let mut round = round(&driven, accepted.min(completed), rate);
        round.processing = Some(processing);
        Ok(round)
    }

    async fn drain(&self) -> anyhow::Result<Round> {
        let took = target::drain(&self.orderly, self.plan.orders, self.plan.users).await?;
        let orders = self.plan.orders as u64;
        let driven = Driven {
            answered: orders,
            ..Driven::default()
        };
        Ok(round(&driven, per_second(orders, took), None))
    }

    async fn pick_up(&self) -> anyhow::Result<Round> {
        let picked_up = target::pick_up(&self.orderly, self.plan.time, self.plan.users).await?;
        let driven = Driven {
            answered: picked_up.count,
            latencies: picked_up.processed,
            ..Driven::default()
        };
        let rate = per_second(picked_up.count, self.plan.time);
        let started = picked_up.started.figures();
        let mut round = round(&driven, rate, None);
        round.processing = Some(Processing {
            accepted_per_second: rate,
            completed_per_second: rate,
            queue_growth: 0,
            queue_grew: false,
            start_p50_ms: started.map(|figures| figures.p50_ms),
            start_p99_ms: started.map(|figures| figures.p99_ms),
        });
        Ok(round)
    }

    async fn drive(&self, script: &Arc<Script>, time: Duration, rate: Option<f64>) -> anyhow::Result<Driven> {
        let connections = self.connections;
        drive(
            script,
            Drive {
                connections,
                time,
                rate,
            },
        )
        .await
    }
}

/// Returns the rate for kinds that have an open loop.
fn rate_of(kind: Kind, rate: Option<f64>) -> Option<f64> {
    match kind {
        Kind::Orderly | Kind::Nothing | Kind::OneInsert => rate,
        Kind::Store | Kind::Disk => None,
    }
}

/// Notes refusals with the first message: they invalidate a figure.
fn note_refusal(kind: Kind, driven: &Driven, notes: &mut Vec<String>) {
    const NOTES_MAX: usize = 8;
    if let Some(refusal) = &driven.first_refusal
        && notes.len() < NOTES_MAX
    {
        notes.push(format!(
            "{kind:?}: {} requests were refused, the first with: {refusal}",
            driven.refused
        ));
    }
}

fn round(driven: &Driven, rate: f64, offered: Option<f64>) -> Round {
    Round {
        rate,
        count: driven.answered,
        refused: driven.refused,
        unsent: driven.unsent,
        offered,
        latency: driven.latencies.figures(),
        processing: None,
    }
}
