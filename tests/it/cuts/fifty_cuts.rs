//! Clients that follow the feed through fifty cuts, a restart and a crash.

use super::fixture::{Fixture, differences, gaps};
use super::followers::{Memory, Received, follow_events, follow_socket};
use crate::crash::load::seed;
use crate::support::cutter::{ANYWHERE, Cutter, Feed};
use crate::support::{postgres, required, until};

pub const CUTS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_keep_their_cursor_get_every_event_exactly_once() {
    follow_through_cuts(Fixture::open().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_every_event_exactly_once_on_postgresql() {
    if required("a private PostgreSQL", postgres::is_installed()) {
        let database = postgres::Server::shared().await.create_database().await;
        follow_through_cuts(Fixture::on(Some(database)).await).await;
    }
}

async fn follow_through_cuts(mut fixture: Fixture) {
    let beginning = fixture.beginning().await;
    let seed = seed();
    let line = Cutter::before(fixture.url(), CUTS, ANYWHERE, seed).await;
    let control = Cutter::before(fixture.url(), CUTS, ANYWHERE, seed.wrapping_add(1)).await;
    let (events, socket, control_received) = (Received::default(), Received::default(), Received::default());

    let workload = async {
        run_through_cuts(
            &mut fixture,
            &[
                (&line, Feed::Events),
                (&line, Feed::Socket),
                (&control, Feed::Events),
            ],
            async || {},
        )
        .await;
        let table = fixture.table().await;
        until("both clients have every event", async || {
            events.len() >= table.len() && socket.len() >= table.len()
        })
        .await;
        table
    };
    let table = tokio::select! {
        table = workload => table,
        () = follow_events(&line, &beginning, Memory::Kept, &events) => unreachable!("it never ends"),
        () = follow_socket(&line, &beginning, &socket) => unreachable!("it never ends"),
        () = follow_events(&control, &beginning, Memory::Lost, &control_received) => unreachable!("it never ends"),
    };
    for (name, received) in [("server-sent events", &events), ("the socket", &socket)] {
        let wrong = differences(&received.all(), &table);
        assert!(
            wrong.is_empty(),
            "{name}: {} findings, {:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(20)]
        );
    }
    let gaps = gaps(&control_received.all(), &table);
    assert!(gaps > 0, "a client that forgets its cursor must skip events");
    println!("the control skipped {gaps} events");
    fixture.close().await;
}

/// Places orders until every cut was made, at the pace of the clients. The server is restarted after a third of the
/// cuts and killed after two thirds.
pub async fn run_through_cuts(fixture: &mut Fixture, lines: &[(&Cutter, Feed)], pace: impl AsyncFn()) {
    let cuts_left = || {
        lines
            .iter()
            .map(|(line, feed)| line.cuts_left(*feed))
            .sum::<usize>()
    };
    let cutters: Vec<&Cutter> = lines.iter().map(|(line, _)| *line).collect();
    let all = cuts_left();
    let sell_until = async |fixture: &mut Fixture, left: usize| {
        while cuts_left() > left {
            fixture.place_orders().await;
            pace().await;
        }
    };
    sell_until(fixture, all * 2 / 3).await;
    fixture.restart(&cutters).await;
    sell_until(fixture, all / 3).await;
    fixture.crash(&cutters).await;
    sell_until(fixture, 0).await;
}
