//! What `doctor` asks of the servers that a configuration names, each by itself. Judging it is left to `cli/doctor`.

/// The servers of a shared database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// In the order of the URL; empty where that names one host.
    pub hosts: Vec<Host>,
    /// Where `DATABASE_DIRECT_URL` leads; `None` without one, or where `DATABASE_URL` leads nowhere itself.
    pub direct: Option<Beside>,
    /// Server of `DATABASE_READ_URL`, likewise.
    pub read: Option<Beside>,
    /// The version of the PgBouncer in `DATABASE_URL`, where its console tells it to this user.
    pub pgbouncer: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    TakesWrites,
    OnlyReads,
    /// Why it could not be asked.
    Unknown(String),
}

/// The server behind another URL, beside the one behind `DATABASE_URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beside {
    Same,
    /// Another server of the same cluster: a standby where `DATABASE_URL` leads to the primary.
    SameCluster,
    Other,
    /// Why it could not be asked.
    Unknown(String),
}
