//! Clients that follow the feed through fifty cuts, a restart and a crash.

use super::followers::{Heard, Memory, follow_events, follow_socket};
use super::shop::{Shop, differences, gaps};
use crate::crash::load::seed;
use crate::support::cutter::{ANYWHERE, Cutter, Feed};
use crate::support::{postgres, required, until};

pub const CUTS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_keep_their_cursor_get_every_event_exactly_once() {
    follow_through_cuts(Shop::open().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_every_event_exactly_once_on_postgresql() {
    if required("a private PostgreSQL", postgres::is_installed()) {
        let database = postgres::Server::shared().await.create_database().await;
        follow_through_cuts(Shop::on(Some(database)).await).await;
    }
}

async fn follow_through_cuts(mut shop: Shop) {
    let beginning = shop.beginning().await;
    let seed = seed();
    let line = Cutter::before(shop.url(), CUTS, ANYWHERE, seed).await;
    let control = Cutter::before(shop.url(), CUTS, ANYWHERE, seed.wrapping_add(1)).await;
    let (events, socket, forgetful) = (Heard::default(), Heard::default(), Heard::default());

    let story = async {
        live_through(
            &mut shop,
            &[
                (&line, Feed::Events),
                (&line, Feed::Socket),
                (&control, Feed::Events),
            ],
            async || {},
        )
        .await;
        let table = shop.table().await;
        until("both clients have every event", async || {
            events.len() >= table.len() && socket.len() >= table.len()
        })
        .await;
        table
    };
    let table = tokio::select! {
        table = story => table,
        () = follow_events(&line, &beginning, Memory::Kept, &events) => unreachable!("a client never ends by itself"),
        () = follow_socket(&line, &beginning, &socket) => unreachable!("a client never ends by itself"),
        () = follow_events(&control, &beginning, Memory::Lost, &forgetful) => unreachable!("a client never ends by itself"),
    };
    for (name, heard) in [("server-sent events", &events), ("the socket", &socket)] {
        let wrong = differences(&heard.all(), &table);
        assert!(
            wrong.is_empty(),
            "{name}: {} findings, {:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(20)]
        );
    }
    let gaps = gaps(&forgetful.all(), &table);
    assert!(gaps > 0, "a client that forgets its cursor must skip events");
    println!("the control skipped {gaps} events");
    shop.close().await;
}

/// Places orders until every cut was made, at the pace of the clients. The server is restarted after a third of the
/// cuts and killed after two thirds.
pub async fn live_through(shop: &mut Shop, lines: &[(&Cutter, Feed)], pace: impl AsyncFn()) {
    let cuts_left = || {
        lines
            .iter()
            .map(|(line, feed)| line.cuts_left(*feed))
            .sum::<usize>()
    };
    let cutters: Vec<&Cutter> = lines.iter().map(|(line, _)| *line).collect();
    let all = cuts_left();
    let sell_until = async |shop: &mut Shop, left: usize| {
        while cuts_left() > left {
            shop.sell().await;
            pace().await;
        }
    };
    sell_until(shop, all * 2 / 3).await;
    shop.restart(&cutters).await;
    sell_until(shop, all / 3).await;
    shop.crash(&cutters).await;
    sell_until(shop, 0).await;
}
