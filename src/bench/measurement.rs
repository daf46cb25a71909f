//! Measurement of one load on one server: prepares its queue and its orders, sends the load in each round, and reads what
//! the server counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::load::{Drive, Driven, drive};
use super::report::{Processing, Round};
use super::script::{Caller, Script};
use super::statistics::per_second;
use super::{Load, Plan, Rate, Target, connections_for_batches, target};

/// Maximum warm-up before the first round; at most a round.
const WARM_UP_TIME_MAX: Duration = Duration::from_secs(1);
/// Growth of running orders that does not count as a growing queue: this number plus a share of the accepted orders.
const UNDER_WAY_ORDERS: u64 = 1_000;
const UNDER_WAY_SHARE: u64 = 50;

pub struct Measurement<'a> {
    plan: &'a Plan,
    load: Load,
    pub connections: usize,
    server: Caller,
    script: Arc<Script>,
    /// Set for a server that the run started, which has no orders of other clients.
    is_own: bool,
}

impl Measurement<'_> {
    /// Prepares the server, with a short load at the end.
    pub async fn prepare(plan: &Plan, load: Load, server: Caller) -> anyhow::Result<Measurement<'_>> {
        let script = match load {
            Load::Batch => Script::batch(&server, plan.batch_size, plan.users),
            Load::Status => Script::status(&server, &target::stock(&server, plan.users).await?),
            Load::Mixed => Script::mixed(&server, plan.users),
            Load::Accept | Load::EndToEnd | Load::Drain | Load::Pickup => Script::accept(&server, plan.users),
        };
        let is_own = !matches!(plan.target, Target::Running(_));
        if is_own && let Load::Accept | Load::Batch = load {
            target::set_paused(&server, true).await?;
        }
        let measurement = Measurement {
            plan,
            load,
            connections: match load {
                Load::Batch => connections_for_batches(plan.connections, plan.batch_size),
                Load::Accept | Load::Status | Load::Mixed | Load::EndToEnd | Load::Drain | Load::Pickup => {
                    plan.connections
                }
            },
            server,
            script: script.into(),
            is_own,
        };
        measurement.drive(plan.time.min(WARM_UP_TIME_MAX), None).await?;
        Ok(measurement)
    }

    /// Measures a round while the server has no earlier orders left.
    pub async fn round(&self, notes: &mut Vec<String>) -> anyhow::Result<Round> {
        let rate = self.rate().await?;
        let processes = match self.load {
            Load::EndToEnd | Load::Mixed | Load::Drain | Load::Pickup => true,
            Load::Accept | Load::Batch | Load::Status => false,
        };
        // A running server has orders of other clients, which may take time.
        if processes && self.is_own {
            target::emptied(&self.server).await?;
        }
        match self.load {
            Load::Accept | Load::Batch | Load::Status | Load::Mixed => self.send(rate, notes).await,
            Load::EndToEnd => self.end_to_end(rate, notes).await,
            Load::Drain => self.drain().await,
            Load::Pickup => self.pick_up().await,
        }
    }

    /// Returns the request rate of this round's open loop.
    async fn rate(&self) -> anyhow::Result<Option<f64>> {
        match self.plan.rate.filter(|_| self.load.takes_rate()) {
            None => Ok(None),
            Some(Rate::PerSecond(rate)) => Ok(Some(rate)),
            Some(Rate::OfPeak(share)) => {
                let driven = self.drive(self.plan.time, None).await?;
                let peak = per_second(driven.in_time, self.plan.time);
                ensure!(
                    peak > 0.0,
                    "no request was answered in time, so there is no peak rate"
                );
                Ok(Some(peak * share))
            }
        }
    }

    async fn send(&self, rate: Option<f64>, notes: &mut Vec<String>) -> anyhow::Result<Round> {
        let driven = self.drive(self.plan.time, rate).await?;
        self.note_refusal(&driven, notes);
        let orders = driven.in_time * self.script.orders_per_request;
        Ok(round(&driven, per_second(orders, self.plan.time), rate))
    }

    async fn end_to_end(&self, rate: Option<f64>, notes: &mut Vec<String>) -> anyhow::Result<Round> {
        let before = target::numbers(&self.server).await?;
        let started = Instant::now();
        let driven = self.drive(self.plan.time, rate).await?;
        let after = target::numbers(&self.server).await?;
        let completed = per_second(
            after.completed.saturating_sub(before.completed),
            started.elapsed(),
        );
        self.note_refusal(&driven, notes);
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
        let took = target::drain(&self.server, self.plan.orders, self.plan.users).await?;
        let orders = self.plan.orders as u64;
        let driven = Driven {
            answered: orders,
            ..Driven::default()
        };
        Ok(round(&driven, per_second(orders, took), None))
    }

    async fn pick_up(&self) -> anyhow::Result<Round> {
        let picked_up = target::pick_up(&self.server, self.plan.time, self.plan.users).await?;
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

    async fn drive(&self, time: Duration, rate: Option<f64>) -> anyhow::Result<Driven> {
        let connections = self.connections;
        drive(
            &self.script,
            Drive {
                connections,
                time,
                rate,
            },
        )
        .await
    }

    /// Notes refusals with the first message: they invalidate a figure.
    fn note_refusal(&self, driven: &Driven, notes: &mut Vec<String>) {
        const NOTES_MAX: usize = 8;
        if let Some(refusal) = &driven.first_refusal
            && notes.len() < NOTES_MAX
        {
            notes.push(format!(
                "{}: {} requests were refused, the first with: {refusal}",
                self.load.name(),
                driven.refused
            ));
        }
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
