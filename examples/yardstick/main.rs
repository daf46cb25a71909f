//! Yardsticks for `cargo xtask bench yardsticks`, one per process. A yardstick that serves HTTP prints its URL and ends
//! when stdin closes; the other one prints its orders per second.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;

mod forgetful;
mod one_insert;
mod store;

/// The allocator of `orderly`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: yardstick nothing
       yardstick one-insert DATABASE_URL
       yardstick store DATABASE_URL CONNECTIONS BATCH_SIZE USERS";
/// Measuring time of the store alone, whose rate stabilizes quickly.
const STORE_TIME: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["nothing"] => forgetful::serve(announced().await?).await,
        ["one-insert", url] => one_insert::serve(announced().await?, url).await,
        ["store", url, connections, batch_size, users] => {
            let callers = store::Callers {
                connections: connections.parse().context("CONNECTIONS")?,
                batch_size: batch_size.parse().context("BATCH_SIZE")?,
                users: users.parse().context("USERS")?,
            };
            println!("{}", store::rate(url, callers, STORE_TIME).await?);
            Ok(())
        }
        _ => bail!("{USAGE}"),
    }
}

/// Listens on a free port and prints the URL.
async fn announced() -> anyhow::Result<TcpListener> {
    std::thread::spawn(|| {
        // Stdin carries no data; it closes however the parent exits.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("http://{}", listener.local_addr()?);
    Ok(listener)
}
