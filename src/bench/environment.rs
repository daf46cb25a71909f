//! Environment of a run: folder, processes and databases, all removed at the end.

use anyhow::Context;

use super::databases::Databases;
use super::process::{Folder, Processes, Settings};
use super::script::Caller;
use super::{Plan, Target};

/// Minimum connection limit of a server, with room for reading metrics.
const CONNECTIONS_MIN: usize = 1_024;

pub struct Environment {
    pub folder: Folder,
    processes: Processes,
    target_databases: Option<Databases>,
    yardstick_databases: Option<Databases>,
}

impl Environment {
    pub fn new(plan: &Plan) -> anyhow::Result<Environment> {
        let beside = |url: Option<&String>| {
            let databases = url.map(|url| Databases::beside(url)).transpose();
            databases.map_err(anyhow::Error::msg)
        };
        let target_url = match &plan.target {
            Target::Postgres(url) => Some(url),
            Target::Sqlite | Target::Running(_) => None,
        };
        Ok(Environment {
            target_databases: beside(target_url)?,
            yardstick_databases: beside(plan.yardstick_database.as_ref().or(target_url))?,
            folder: Folder::new_in(&plan.folder)?,
            processes: Processes::default(),
        })
    }

    /// Starts the server under test on new data, or returns the running one; `name` is that of the load.
    pub async fn server(&self, plan: &Plan, name: &str) -> anyhow::Result<Caller> {
        if let Target::Running(caller) = &plan.target {
            return Ok(caller.clone());
        }
        let folder = self.folder.inside(name)?;
        let settings = Settings {
            database_url: self.new_store(plan, name).await?,
            connections: plan.connections.max(CONNECTIONS_MIN),
            others: &plan.settings,
        };
        self.processes.serve(&plan.program, &folder, settings).await
    }

    /// Returns the URL of a new store of the kind under test.
    pub async fn new_store(&self, plan: &Plan, name: &str) -> anyhow::Result<String> {
        match (&plan.target, &self.target_databases) {
            (Target::Postgres(_), Some(databases)) => databases.make().await,
            (Target::Postgres(_) | Target::Sqlite | Target::Running(_), _) => {
                let file = self.folder.inside(name)?.join("orderly.db");
                Ok(format!("sqlite:{}", file.display()))
            }
        }
    }

    /// Starts the yardstick that stores nothing.
    pub async fn forgetful(&self, plan: &Plan) -> anyhow::Result<Caller> {
        let connections = plan.connections.max(CONNECTIONS_MIN).to_string();
        let arguments = ["nothing", "--connections", &connections];
        self.processes
            .yardstick(&plan.yardstick_program, &arguments, None)
            .await
    }

    /// Starts the yardstick with one INSERT per request, if there is a PostgreSQL server for it.
    pub async fn one_insert(&self, plan: &Plan) -> anyhow::Result<Option<Caller>> {
        let Some(databases) = &self.yardstick_databases else {
            return Ok(None);
        };
        let url = databases.make().await.context("for a yardstick")?;
        let arguments = ["one-insert"];
        let caller = self
            .processes
            .yardstick(&plan.yardstick_program, &arguments, Some(&url))
            .await?;
        Ok(Some(caller))
    }

    /// Ends a server started by the run.
    pub async fn end(&self, server: &Caller) {
        self.processes.end(server.address).await;
    }

    /// Ends all processes and removes everything.
    pub async fn clear(self) {
        self.processes.end_all().await;
        for databases in [self.target_databases, self.yardstick_databases]
            .into_iter()
            .flatten()
        {
            databases.drop_all().await;
        }
    }
}
