//! The servers that a configuration names, as `doctor` finds them. `cli/doctor` judges the findings.

/// The servers of a shared database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Hosts of `DATABASE_URL` in its order; none if it names only one.
    pub hosts: Vec<Host>,
    /// The server of `DATABASE_DIRECT_URL`; `None` if that is not set, or if `DATABASE_URL` cannot be reached.
    pub direct: Option<ServerRelation>,
    /// The server of `DATABASE_READ_URL`; `None` if that is not set, or if `DATABASE_URL` cannot be reached.
    pub read: Option<ServerRelation>,
    /// The version of the PgBouncer behind `DATABASE_URL`, if its console shows it to this user.
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
    /// The query failed, for this reason.
    Unknown(String),
}

/// The relation of another URL's server to the server of `DATABASE_URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerRelation {
    Same,
    /// Another server of the same cluster, such as a standby of the primary.
    SameCluster,
    Other,
    /// The query failed, for this reason.
    Unknown(String),
}
