//! The pool of connections for reads: kinds, limits, dropped callers, and closing.

use std::sync::mpsc;

use super::super::connection::open_writer;
use super::*;

fn number(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.query_row("select 7", [], |row| row.get(0))
}

/// A pool on an empty database, and the folder of the database.
fn open_readers() -> (Readers, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    drop(open_writer(&path).unwrap());
    let readers = Readers::open(&path, Arc::new(SqliteHealth::new())).unwrap();
    (readers, folder)
}

/// Occupies all connections of a kind until the returned senders are dropped.
async fn occupy(readers: &Readers, kind: ReadKind) -> Vec<mpsc::Sender<()>> {
    let mut ends = Vec::new();
    for _ in 0..kind.limits().connections {
        let (end, wait) = mpsc::channel::<()>();
        let (begun, started) = oneshot::channel();
        let blocked = readers.read(kind, "wait", move |_| {
            begun.send(()).unwrap();
            Ok(wait.recv().is_err())
        });
        // The future stays alive until the read has begun: a read whose caller is gone does not begin.
        let mut blocked = Box::pin(blocked);
        assert!(futures_util::poll!(&mut blocked).is_pending());
        // Enough reads to start another connection, if one is left. That connection may answer some of them at once.
        for _ in 0..kind.limits().connections * kind.limits().reads_per_connection {
            let _ = futures_util::poll!(Box::pin(readers.read(kind, "read", number)));
        }
        started.await.unwrap();
        ends.push(end);
    }
    ends
}

#[tokio::test]
async fn each_read_of_a_transaction_gets_its_own_answer() {
    let (readers, _folder) = open_readers();
    let ends = occupy(&readers, ReadKind::Point).await;
    let mut good = Box::pin(readers.read(ReadKind::Point, "read", number));
    let mut bad = Box::pin(readers.read(ReadKind::Point, "read", |connection| {
        connection.query_row("select 7 from nothing", [], |row| row.get::<_, i64>(0))
    }));
    let mut left = Box::pin(readers.read(ReadKind::Point, "read", number));
    for read in [
        &mut good as &mut (dyn Future<Output = _> + Unpin),
        &mut bad,
        &mut left,
    ] {
        assert!(futures_util::poll!(read).is_pending());
    }
    drop(left);
    drop(ends);
    assert_eq!(good.await.unwrap(), 7);
    assert!(matches!(bad.await, Err(StoreError::Unexpected { .. })));
}

#[tokio::test]
async fn a_panicking_read_is_answered_and_keeps_its_connection_usable() {
    let (readers, _folder) = open_readers();
    for kind in ReadKind::ALL {
        for _ in 0..=kind.limits().connections {
            let panicked = readers
                .read(kind, "read", |_| -> Result<(), _> { panic!("on purpose") })
                .await;
            assert!(matches!(panicked, Err(StoreError::Unexpected { .. })));
        }
        assert_eq!(readers.read(kind, "read", number).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn closing_finishes_waiting_reads_first() {
    for kind in ReadKind::ALL {
        let (readers, _folder) = open_readers();
        let ends = occupy(&readers, kind).await;
        let mut waiting = Box::pin(readers.read(kind, "read", number));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let mut closed = Box::pin(readers.close());
        assert!(futures_util::poll!(&mut closed).is_pending());
        let late = readers.read(kind, "read", number).await;
        assert!(matches!(late, Err(StoreError::Closed)));
        drop(ends);
        closed.await;
        assert_eq!(waiting.await.unwrap(), 7);
        readers.close().await;
    }
}

#[tokio::test]
async fn reads_beyond_the_waiting_limit_are_refused() {
    let (readers, _folder) = open_readers();
    for kind in ReadKind::ALL {
        let ends = occupy(&readers, kind).await;
        let mut waiting = Vec::new();
        while readers.pool.lock().queues[kind as usize].reads.len() < READS_WAITING_MAX {
            let mut read = Box::pin(readers.read(kind, "read", number));
            assert!(futures_util::poll!(&mut read).is_pending());
            waiting.push(read);
        }
        let refused = readers.read(kind, "read", number).await;
        assert!(matches!(refused, Err(StoreError::Busy)));
        drop(ends);
        for read in waiting {
            assert_eq!(read.await.unwrap(), 7);
        }
    }
}

/// Issue 13, point 28.
#[tokio::test]
async fn no_kind_of_read_delays_another() {
    for slow in ReadKind::ALL {
        let (readers, _folder) = open_readers();
        let ends = occupy(&readers, slow).await;
        for kind in ReadKind::ALL.into_iter().filter(|kind| *kind != slow) {
            assert_eq!(readers.read(kind, "read beside", number).await.unwrap(), 7);
        }
        let mut next = Box::pin(readers.read(slow, "read", number));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(ends);
        assert_eq!(next.await.unwrap(), 7);
    }
}

/// A query that has begun runs to its end, and its connection stays in use until then. A query that has not begun is dropped.
#[tokio::test]
async fn dropped_callers_do_not_affect_others() {
    let (readers, _folder) = open_readers();
    let connections = ReadKind::List.limits().connections;
    let (ends, waits): (Vec<_>, Vec<_>) = (0..connections).map(|_| mpsc::channel::<()>()).unzip();
    for wait in waits {
        let (begun, started) = oneshot::channel();
        let readers = readers.clone();
        let caller = tokio::spawn(async move {
            let query = move |_: &Connection| {
                begun.send(()).unwrap();
                Ok(wait.recv().is_err())
            };
            readers.read(ReadKind::List, "wait", query).await
        });
        started.await.unwrap();
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
    }
    let (begun, start) = oneshot::channel();
    let mut left = Box::pin(
        readers.read(ReadKind::List, "list for a caller that leaves", move |_| {
            begun.send(()).unwrap();
            Ok(())
        }),
    );
    assert!(futures_util::poll!(&mut left).is_pending());
    drop(left);
    let mut next = Box::pin(readers.read(ReadKind::List, "read", number));
    assert!(
        futures_util::poll!(&mut next).is_pending(),
        "every connection is still in use"
    );
    drop(ends);
    assert_eq!(next.await.unwrap(), 7);
    start.await.unwrap_err();
}
