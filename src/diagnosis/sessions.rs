//! Rules about other sessions of the database: they hold locks, old snapshots, or its log.

use super::{Finding, OLD_TRANSACTION, Rule, Severity, counted, finding};
use crate::store::Vitals;
use crate::store::vitals::LongTransaction;

pub(super) fn judge(vitals: &Vitals, findings: &mut Vec<Finding>) {
    findings.extend(vitals.transactions.iter().filter_map(transaction));
    let named: Vec<i32> = vitals
        .transactions
        .iter()
        .filter(|transaction| transaction.blocks > 0)
        .map(|transaction| transaction.session.pid)
        .collect();
    let unnamed = vitals
        .locked_orders
        .iter()
        .find(|(_, session)| !named.contains(&session.pid));
    findings.extend(unnamed.map(|(order, session)| {
        finding(
            Rule::Locked,
            Severity::Fail,
            format!("{session} has locked order {order}, which cannot start"),
            end_of(session.pid),
        )
    }));
    if !vitals.full_slots.is_empty() {
        findings.push(finding(
            Rule::SlotWithoutClient,
            Severity::Warn,
            format!(
                "replication slot {} has no client, and the database keeps its log for it until the disk is full",
                vitals.full_slots.join(", ")
            ),
            "reconnect the standby or subscriber, or drop the slot with pg_drop_replication_slot('NAME')",
        ));
    }
}

fn end_of(pid: i32) -> String {
    format!("end that session, or call pg_terminate_backend({pid})")
}

pub(super) fn transaction(transaction: &LongTransaction) -> Option<Finding> {
    let session = &transaction.session;
    let idle = if transaction.idle {
        ", idle in transaction"
    } else {
        ""
    };
    let action = end_of(session.pid);
    if transaction.blocks > 0 {
        return Some(finding(
            Rule::Locked,
            Severity::Fail,
            format!(
                "{session}{idle} holds locks that {} for",
                match transaction.blocks {
                    1 => "1 session waits".to_owned(),
                    blocks => format!("{} wait", counted(blocks, "session")),
                }
            ),
            action,
        ));
    }
    let is_long = session.open_for.is_some_and(|age| age >= OLD_TRANSACTION);
    is_long.then(|| {
        finding(
            Rule::LongTransaction,
            Severity::Warn,
            format!("{session}{idle} keeps the database from cleaning up: everything gets slower"),
            action,
        )
    })
}
