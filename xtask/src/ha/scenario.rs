//! Failure scenarios of the trials: what each breaks, for how long, and when nodes must store again.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::cluster::{self, Cluster};
use super::daemon::{self, Daemon, Signal};
use super::network::{self, LINKS, Link, MACHINES, Machine};
use super::watch::Watch;
use super::way::{self, Way};

/// Maximum time without a leader in any scenario.
const LEADER_TIME_MAX: Duration = Duration::from_mins(2);
/// Time a machine stays away, well beyond the election of another leader.
const AWAY: Duration = Duration::from_secs(40);
/// Duration of a cut between clients and primary, which Patroni does not notice.
const CLIENTS_AWAY: Duration = Duration::from_secs(25);
const HAPROXY_AWAY: Duration = Duration::from_secs(20);
const ETCD_AWAY: Duration = Duration::from_secs(30);
const NO_STANDBY: Duration = Duration::from_secs(40);
/// Longer than the maximum wait of a node for any answer (10 s).
const STANDBYS_AWAY: Duration = Duration::from_secs(30);
/// Above `STANDBYS_AWAY`, so that Patroni still counts the standbys as members when the primary dies.
const LONG_TTL_S: u32 = 45;
/// Time from the new leader to the return of a killed machine.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    Switchover,
    KillPostgres,
    KillMember,
    Freeze,
    CutBackend,
    CutClients,
    CutAll,
    KillHaproxy,
    EtcdAway,
    StrictNoStandby,
    LoseStandbysThenPrimary,
}

pub const SCENARIOS: [Scenario; 11] = [
    Scenario::Switchover,
    Scenario::KillPostgres,
    Scenario::KillMember,
    Scenario::Freeze,
    Scenario::CutBackend,
    Scenario::CutClients,
    Scenario::CutAll,
    Scenario::KillHaproxy,
    Scenario::EtcdAway,
    Scenario::StrictNoStandby,
    Scenario::LoseStandbysThenPrimary,
];

/// Times of a failure.
pub struct Failure {
    pub began: Instant,
    /// Time from which a primary can be reached and stores: a new leader, or the return of the failed part.
    pub over: Instant,
    /// Equivalent time for nodes with the hosts in their URL.
    pub over_for_hosts: Instant,
    /// Period in which no standby could have an order, so none may be acknowledged.
    pub without_standby: Option<(Instant, Instant)>,
}

/// Parts that a failure may break.
pub struct Stage<'a> {
    pub cluster: &'a mut Cluster,
    pub haproxy: &'a mut Option<Daemon>,
    pub watch: &'a Watch,
    pub logs: &'a Path,
}

impl Scenario {
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Switchover => "switchover",
            Scenario::KillPostgres => "kill-postgres",
            Scenario::KillMember => "kill-member",
            Scenario::Freeze => "freeze",
            Scenario::CutBackend => "cut-backend",
            Scenario::CutClients => "cut-clients",
            Scenario::CutAll => "cut-all",
            Scenario::KillHaproxy => "kill-haproxy",
            Scenario::EtcdAway => "etcd-away",
            Scenario::StrictNoStandby => "strict-no-standby",
            Scenario::LoseStandbysThenPrimary => "lose-standbys-then-primary",
        }
    }

    pub fn named(name: &str) -> Option<Scenario> {
        SCENARIOS.into_iter().find(|scenario| scenario.name() == name)
    }

    /// Reports whether the primary stores nothing without a standby.
    pub fn is_strict(self) -> bool {
        self == Scenario::StrictNoStandby
    }

    /// Prepares a complete cluster for the failure.
    pub fn prepare(self) -> Result<()> {
        if self == Scenario::LoseStandbysThenPrimary {
            cluster::set(primary()?, "ttl", LONG_TTL_S)?;
        }
        Ok(())
    }

    /// Breaks something, waits and repairs it. The cluster may not be complete on return.
    pub fn happen(self, stage: &mut Stage) -> Result<Failure> {
        let primary = primary()?;
        let began = Instant::now();
        let mut without_standby = None;
        let led =
            |stage: &Stage, away: Option<Machine>| stage.watch.leader_since(began, away, LEADER_TIME_MAX);
        let over = match self {
            Scenario::Switchover => {
                cluster::switch_over(primary)?;
                led(stage, Some(primary))?
            }
            Scenario::KillPostgres => {
                stage.cluster.kill_postmaster(primary)?;
                stage.cluster.wait_for_writes(LEADER_TIME_MAX)?;
                Instant::now()
            }
            Scenario::KillMember => {
                stage.cluster.kill_member(primary)?;
                let over = led(stage, Some(primary))?;
                sleep(SETTLE);
                stage.cluster.start_patroni(primary)?;
                over
            }
            Scenario::Freeze => {
                daemon::signal_machine(primary, Signal::Stop, &[])?;
                let over = led(stage, Some(primary));
                sleep_until(began + AWAY);
                daemon::signal_machine(primary, Signal::Continue, &[])?;
                over?
            }
            Scenario::CutBackend => without(primary, &[Link::Backend], began, || led(stage, Some(primary)))?,
            Scenario::CutAll => without(primary, &LINKS, began, || led(stage, Some(primary)))?,
            Scenario::CutClients => {
                network::cut(primary, Link::Clients)?;
                sleep(CLIENTS_AWAY);
                network::mend(primary, Link::Clients)?;
                Instant::now()
            }
            Scenario::KillHaproxy => {
                let Some(haproxy) = stage.haproxy.take() else {
                    return Ok(Failure::nothing(began));
                };
                haproxy.kill()?;
                sleep(HAPROXY_AWAY);
                *stage.haproxy = Some(way::start_haproxy(stage.logs)?);
                return Ok(Failure {
                    began,
                    over: Instant::now(),
                    ..Failure::nothing(began)
                });
            }
            Scenario::EtcdAway => {
                stage.cluster.kill_etcd()?;
                sleep(ETCD_AWAY);
                let back = Instant::now();
                stage.cluster.start_etcd()?;
                stage.watch.leader_since(back, None, LEADER_TIME_MAX)?
            }
            Scenario::StrictNoStandby => {
                let standbys = MACHINES.into_iter().filter(|machine| *machine != primary);
                for standby in standbys.clone() {
                    stage.cluster.kill_member(standby)?;
                }
                let gone = Instant::now();
                sleep(NO_STANDBY);
                without_standby = Some((gone, Instant::now()));
                for standby in standbys {
                    stage.cluster.start_patroni(standby)?;
                }
                stage.cluster.wait_for_synchronous(primary, LEADER_TIME_MAX)?;
                Instant::now()
            }
            Scenario::LoseStandbysThenPrimary => {
                let standbys = MACHINES.into_iter().filter(|machine| *machine != primary);
                for standby in standbys.clone() {
                    stage.cluster.signal_database(standby, Signal::Stop)?;
                }
                let gone = Instant::now();
                sleep(STANDBYS_AWAY);
                without_standby = Some((gone, Instant::now()));
                stage.cluster.kill_member(primary)?;
                for standby in standbys {
                    stage.cluster.signal_database(standby, Signal::Continue)?;
                }
                let over = led(stage, Some(primary))?;
                sleep(SETTLE);
                stage.cluster.start_patroni(primary)?;
                over
            }
        };
        Ok(Failure {
            began,
            over,
            over_for_hosts: over,
            without_standby,
        })
    }
}

impl Failure {
    /// Returns a failure without any effect.
    pub fn nothing(began: Instant) -> Failure {
        Failure {
            began,
            over: began,
            over_for_hosts: began,
            without_standby: None,
        }
    }

    pub fn over_for(&self, way: Way) -> Instant {
        match way {
            Way::Hosts => self.over_for_hosts,
            Way::Haproxy | Way::Pgbouncer => self.over,
        }
    }
}

fn without(
    machine: Machine,
    links: &[Link],
    began: Instant,
    meanwhile: impl FnOnce() -> Result<Instant>,
) -> Result<Instant> {
    for link in links {
        network::cut(machine, *link)?;
    }
    let over = meanwhile();
    sleep_until(began + AWAY);
    for link in links {
        network::mend(machine, *link)?;
    }
    over
}

fn primary() -> Result<Machine> {
    cluster::leader().context("no machine leads")
}

fn sleep_until(instant: Instant) {
    sleep(instant.saturating_duration_since(Instant::now()));
}
