//! Network of the trials: three database machines as network namespaces, each on two switches. It is inside the namespace
//! of `isolation.rs` and removed with it.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A machine that runs PostgreSQL, Patroni and etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine(u8);

pub const MACHINES: [Machine; 3] = [Machine(1), Machine(2), Machine(3)];

/// A network that connects every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Network between the machines: etcd, replication, Patroni's own calls.
    Backend,
    /// Network on which orderly, HAProxy and PgBouncer reach the machines.
    Clients,
}

pub const LINKS: [Link; 2] = [Link::Backend, Link::Clients];

/// Host number on each switch of everything that is not a database machine.
pub const HERE: u8 = 1;
/// Offset of the machines' host numbers.
const MACHINES_FROM: u8 = 10;

impl Machine {
    pub fn name(self) -> String {
        format!("db{}", self.0)
    }

    pub fn address(self, link: Link) -> String {
        link.address(MACHINES_FROM + self.0)
    }

    fn hardware(self, link: Link) -> String {
        link.hardware(MACHINES_FROM + self.0)
    }

    /// Returns the name of the link's end in the switch.
    fn port(self, link: Link) -> String {
        format!("{}-{}", self.name(), link.name())
    }
}

impl Link {
    fn name(self) -> &'static str {
        match self {
            Link::Backend => "backend",
            Link::Clients => "clients",
        }
    }

    fn number(self) -> u8 {
        match self {
            Link::Backend => 75,
            Link::Clients => 76,
        }
    }

    pub fn address(self, host: u8) -> String {
        format!("10.{}.0.{host}", self.number())
    }

    fn hardware(self, host: u8) -> String {
        format!("02:00:00:00:{}:{host}", self.number())
    }
}

pub fn create() -> Result<()> {
    ip("link set lo up")?;
    for link in LINKS {
        let (switch, hardware, address) = (link.name(), link.hardware(HERE), link.address(HERE));
        ip(&format!("link add {switch} address {hardware} type bridge"))?;
        ip(&format!("address add {address}/24 dev {switch}"))?;
        ip(&format!("link set {switch} up"))?;
    }
    for machine in MACHINES {
        let name = machine.name();
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link set lo up"))?;
        for link in LINKS {
            join(machine, link)?;
        }
    }
    Ok(())
}

fn join(machine: Machine, link: Link) -> Result<()> {
    let (name, device, port) = (machine.name(), link.name(), machine.port(link));
    let (hardware, address) = (machine.hardware(link), machine.address(link));
    ip(&format!(
        "link add {port} type veth peer name {device} address {hardware} netns {name}"
    ))?;
    ip(&format!("link set {port} master {device} up"))?;
    ip(&format!("-n {name} address add {address}/24 dev {device}"))?;
    ip(&format!("-n {name} link set {device} up"))?;
    // Permanent entries: packets into a cut link vanish silently, as behind a router.
    ip(&format!(
        "neighbour replace {address} lladdr {hardware} dev {device} nud permanent"
    ))?;
    let others = MACHINES.into_iter().filter(|other| *other != machine);
    let others = others.map(|other| (other.address(link), other.hardware(link)));
    for (address, hardware) in others.chain([(link.address(HERE), link.hardware(HERE))]) {
        ip(&format!(
            "-n {name} neighbour replace {address} lladdr {hardware} dev {device} nud permanent"
        ))?;
    }
    Ok(())
}

/// Takes the link out of its switch. Neither end notices; packets vanish.
pub fn cut(machine: Machine, link: Link) -> Result<()> {
    ip(&format!("link set {} nomaster", machine.port(link)))
}

pub fn mend(machine: Machine, link: Link) -> Result<()> {
    ip(&format!("link set {} master {}", machine.port(link), link.name()))
}

/// Returns the processes of a machine.
pub fn processes(machine: Machine) -> Result<Vec<u32>> {
    let output = Command::new("ip")
        .args(["netns", "pids", &machine.name()])
        .output()
        .context("run ip netns pids")?;
    let listed = String::from_utf8_lossy(&output.stdout);
    Ok(listed
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect())
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .context("run ip")?;
    ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
