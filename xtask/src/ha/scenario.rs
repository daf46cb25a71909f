//! The failures of the trials: what each one breaks, for how long, and from when on nodes must store again.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::cluster::{self, Cluster};
use super::daemon::{self, Daemon, Signal};
use super::network::{self, LINKS, Link, MACHINES, Machine};
use super::watch::Watch;
use super::way::{self, Way};

/// No failure keeps the cluster without a leader for longer.
const LEADER_TIME_MAX: Duration = Duration::from_mins(2);
/// A machine stays away until long after another one leads.
const AWAY: Duration = Duration::from_secs(40);
/// Patroni hears nothing of a cut between clients and primary: it must end by itself.
const CLIENTS_AWAY: Duration = Duration::from_secs(25);
const HAPROXY_AWAY: Duration = Duration::from_secs(20);
const ETCD_AWAY: Duration = Duration::from_secs(30);
const NO_STANDBY: Duration = Duration::from_secs(40);
/// Longer than a node waits for any answer (10 s).
const STANDBYS_AWAY: Duration = Duration::from_secs(30);
/// Longer than `STANDBYS_AWAY`, so that Patroni still counts the standbys as members when the primary dies.
const LONG_TTL_S: u32 = 45;
/// Between the new leader and the return of a killed machine.
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

/// When it happened.
pub struct Failure {
    pub began: Instant,
    /// From here on a primary can be reached and stores: a new leader is there, or what was away is back.
    pub over: Instant,
    /// The same for nodes that name the hosts themselves.
    pub over_for_hosts: Instant,
    /// While no standby could have an order, and so no order could be acknowledged.
    pub without_standby: Option<(Instant, Instant)>,
}

/// What a failure may break.
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

    /// Reports whether the primary refuses to store without a standby.
    pub fn is_strict(self) -> bool {
        self == Scenario::StrictNoStandby
    }

    /// Prepares a whole cluster for the failure.
    pub fn prepare(self) -> Result<()> {
        if self == Scenario::LoseStandbysThenPrimary {
            cluster::set(primary()?, "ttl", LONG_TTL_S)?;
        }
        Ok(())
    }

    /// Breaks something, waits, and mends it. Returns when all is mended, if not yet whole.
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
    /// Nothing happened that anybody could notice.
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
