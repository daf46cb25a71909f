//! A private Redis in a temporary folder, on loopback only; it keeps nothing on disk unless asked.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use redis::{AsyncConnectionConfig, Client, FromRedisValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::PATIENCE;

use super::postgres::certificates::Authority;
use super::postgres::{StartSigns, Supervised, blocking, on_a_free_port};

const START_SIGNS: StartSigns = StartSigns {
    ready: "Ready to accept connections",
    failed: "Failed",
};

/// Stopped with the handle.
pub struct Redis {
    running: Arc<Running>,
    port: u16,
    /// The way of the servers, unless it is the port.
    url: Option<String>,
}

struct Running {
    supervised: Supervised,
    command: Vec<String>,
}

pub fn is_installed() -> bool {
    program().is_some()
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("redis-server"))
        .find(|program| program.is_file())
}

/// Reports whether every server on PostgreSQL gets the shared Redis: `cargo xtask soak redis` runs other tests once more this way.
pub fn is_under_all() -> bool {
    std::env::var_os("ORDERLY_TEST_REDIS").is_some()
}

/// Gives a server on PostgreSQL without a Redis of its own the shared one, if all get it.
pub async fn put_under(command: &mut Command) {
    static SHARED: OnceCell<Redis> = OnceCell::const_new();
    let set = |name: &str| {
        let mut all = command.as_std().get_envs();
        let found = all.find(|(known, _)| *known == name);
        found
            .and_then(|(_, value)| value)
            .map(|value| value.to_string_lossy().into_owned())
    };
    let database = set("DATABASE_URL").filter(|url| url.starts_with("postgres"));
    if !is_under_all() || set("REDIS_URL").is_some() {
        return;
    }
    let Some(database) = database else { return };
    // Nodes of one database share a prefix, by whatever way they reach it.
    let path = database.rsplit('/').next().unwrap_or_default();
    let name = path.split('?').next().unwrap_or_default();
    let redis = SHARED.get_or_init(Redis::start).await;
    command
        .env("REDIS_URL", redis.url())
        .env("ORDERLY_REDIS_PREFIX", name);
}

impl Redis {
    pub async fn start() -> Redis {
        Redis::start_with(|_| Ok((Vec::new(), None))).await
    }

    /// Starts one that servers reach by a socket.
    pub async fn start_with_socket() -> Redis {
        Redis::start_with(|supervised| {
            let socket = supervised.folder().join("redis.sock");
            let options = ["--unixsocket".to_owned(), socket.display().to_string()];
            Ok((
                options.to_vec(),
                Some(format!("redis+unix://{}", socket.display())),
            ))
        })
        .await
    }

    /// Starts one that servers reach by TLS.
    pub async fn start_with_tls() -> Redis {
        Redis::start_with(|supervised| {
            let authority = Authority::new();
            let certificate = authority.certificate_for(&["localhost"]);
            let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
            // Freed here; Redis takes it a moment later.
            let port = listener.local_addr().map_err(|error| error.to_string())?.port();
            let mut options = vec!["--tls-port".to_owned(), port.to_string()];
            let root = supervised.write("root.pem", &authority.root())?;
            for (option, file) in [
                ("--tls-ca-cert-file", root.clone()),
                (
                    "--tls-cert-file",
                    supervised.write("chain.pem", &certificate.chain)?,
                ),
                ("--tls-key-file", supervised.write("key.pem", &certificate.key)?),
            ] {
                options.extend([option.to_owned(), file.display().to_string()]);
            }
            options.extend(["--tls-auth-clients", "no"].map(str::to_owned));
            let url = format!("rediss://localhost:{port}/0?ssl_ca_certs={}", root.display());
            Ok((options, Some(url)))
        })
        .await
    }

    async fn start_with(
        more: impl FnOnce(&Supervised) -> Result<(Vec<String>, Option<String>), String> + Send + 'static,
    ) -> Redis {
        blocking(|| Redis::start_blocking(more))
            .await
            .unwrap_or_else(|error| panic!("no Redis: {error}"))
    }

    fn start_blocking(
        more: impl FnOnce(&Supervised) -> Result<(Vec<String>, Option<String>), String>,
    ) -> Result<Redis, String> {
        let program = program().ok_or("its program is not installed")?;
        let supervised = Supervised::new("redis", "TERM")?;
        let (options, url) = more(&supervised)?;
        let (port, command) = on_a_free_port(|port| {
            let mut command = vec![program.display().to_string()];
            let folder = supervised.folder().display();
            let own = format!(
                "--bind 127.0.0.1 --port {port} --dir {folder} --save  --appendonly no --enable-debug-command local"
            );
            // The empty value of `--save` keeps its place.
            command.extend(own.split(' ').map(str::to_owned));
            command.extend(options.clone());
            supervised.start(&command, &START_SIGNS).map(|()| command)
        })?;
        Ok(Redis {
            running: Arc::new(Running { supervised, command }),
            port,
            url,
        })
    }

    /// The URL for servers.
    pub fn url(&self) -> String {
        self.url.clone().unwrap_or_else(|| self.own_url())
    }

    fn own_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it. All it held is gone.
    pub async fn kill(&self) {
        self.act(|running| running.supervised.end("KILL")).await;
    }

    pub async fn start_again(&self) {
        self.act(|running| running.supervised.start(&running.command, &START_SIGNS))
            .await;
    }

    pub async fn freeze(&self) {
        self.act(|running| running.supervised.signal("STOP")).await;
    }

    pub async fn thaw(&self) {
        self.act(|running| running.supervised.signal("CONT")).await;
    }

    /// Opens a way to it that can be cut; `None` if servers reach it by a socket or TLS.
    pub async fn way(&self) -> Option<Way> {
        match self.url {
            Some(_) => None,
            None => Some(Way::to(self.port).await),
        }
    }

    async fn act(&self, act: impl FnOnce(&Running) -> Result<(), String> + Send + 'static) {
        let running = self.running.clone();
        let done = blocking(move || act(&running)).await;
        done.unwrap_or_else(|error| panic!("Redis: {error}"));
    }

    /// Sends a command, its words separated by blanks.
    pub async fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        for word in words {
            command.arg(word);
        }
        self.send(&command).await
    }

    /// Puts a copy from `DUMP` in the place of a key.
    pub async fn restore(&self, key: &str, copy: Vec<u8>) {
        let mut restore = redis::cmd("RESTORE");
        restore.arg(key).arg(0).arg(copy).arg("REPLACE");
        self.send::<()>(&restore).await;
    }

    async fn send<T: FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let client = Client::open(self.own_url()).expect("a URL of the tests' own");
        // Longer than a command by which a test makes it sleep.
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .expect("Redis answers");
        command.query_async(&mut connection).await.expect("Redis answers")
    }
}

/// A way from one server to a Redis. While it is cut nothing arrives, and no connection ends.
pub struct Way {
    port: u16,
    is_cut: watch::Sender<bool>,
    _forwarding: AbortOnDropHandle<()>,
}

impl Way {
    async fn to(redis: u16) -> Way {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (is_cut, cut) = watch::channel(false);
        let forwarding = tokio::spawn(async move {
            // Ended with this task.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, redis, cut.clone()));
            }
        });
        Way {
            port,
            is_cut,
            _forwarding: AbortOnDropHandle::new(forwarding),
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn forward(client: TcpStream, redis: u16, cut: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", redis)).await else {
        return;
    };
    let ((client_reader, client_writer), (server_reader, server_writer)) =
        (client.into_split(), server.into_split());
    // The end of either direction ends the connection.
    tokio::select! {
        () = copy(client_reader, server_writer, cut.clone()) => {}
        () = copy(server_reader, client_writer, cut) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cut: watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        if cut.wait_for(|is_cut| !is_cut).await.is_err() || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
