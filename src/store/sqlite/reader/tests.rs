//! The pool of reading connections: kinds, shares, callers that go away, and its end.

use std::sync::mpsc;

use super::super::connection::open_writer;
use super::*;

fn number(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.query_row("select 7", [], |row| row.get(0))
}

struct Scene {
    readers: Readers,
    _folder: tempfile::TempDir,
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    drop(open_writer(&path).unwrap());
    Scene {
        readers: Readers::open(&path, Arc::new(State::new())).unwrap(),
        _folder: folder,
    }
}

/// Keeps all connections of a kind at work until the senders are dropped.
async fn occupied(readers: &Readers, kind: Kind) -> Vec<mpsc::Sender<()>> {
    let mut ends = Vec::new();
    for _ in 0..kind.share().connections {
        let (end, wait) = mpsc::channel::<()>();
        let (begun, started) = oneshot::channel();
        let held_up = readers.read(kind, "wait", move |_| {
            begun.send(()).unwrap();
            Ok(wait.recv().is_err())
        });
        // Its caller waits in a task of its own: a read whose caller left does not begin.
        let mut held_up = Box::pin(held_up);
        assert!(futures_util::poll!(&mut held_up).is_pending());
        // So many that a further connection comes, if one is left.
        for _ in 0..kind.share().connections * kind.share().reads_to_help_with {
            assert!(futures_util::poll!(Box::pin(readers.read(kind, "read", number))).is_pending());
        }
        started.await.unwrap();
        ends.push(end);
    }
    ends
}

#[tokio::test]
async fn reads_that_go_together_are_answered_each_for_itself() {
    let Scene { readers, _folder } = scene();
    let ends = occupied(&readers, Kind::Point).await;
    let mut good = Box::pin(readers.read(Kind::Point, "read", number));
    let mut bad = Box::pin(readers.read(Kind::Point, "read", |connection| {
        connection.query_row("select 7 from nothing", [], |row| row.get::<_, i64>(0))
    }));
    let mut left = Box::pin(readers.read(Kind::Point, "read", number));
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
async fn a_read_that_panics_is_answered_and_takes_no_connection_with_it() {
    let Scene { readers, _folder } = scene();
    for kind in Kind::ALL {
        for _ in 0..=kind.share().connections {
            let panicked = readers
                .read(kind, "read", |_| -> Result<(), _> { panic!("on purpose") })
                .await;
            assert!(matches!(panicked, Err(StoreError::Unexpected { .. })));
        }
        assert_eq!(readers.read(kind, "read", number).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn reads_that_wait_are_carried_out_before_the_end() {
    for kind in Kind::ALL {
        let Scene { readers, _folder } = scene();
        let ends = occupied(&readers, kind).await;
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
async fn more_reads_than_may_wait_are_refused() {
    let Scene { readers, _folder } = scene();
    for kind in Kind::ALL {
        let ends = occupied(&readers, kind).await;
        let mut waiting = Vec::new();
        while readers.pool.waiting().lines[kind as usize].reads.len() < READS_WAITING_MAX {
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
async fn no_kind_of_reads_keeps_another_waiting() {
    for slow in Kind::ALL {
        let Scene { readers, _folder } = scene();
        let ends = occupied(&readers, slow).await;
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != slow) {
            assert_eq!(readers.read(kind, "read beside", number).await.unwrap(), 7);
        }
        let mut next = Box::pin(readers.read(slow, "read", number));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(ends);
        assert_eq!(next.await.unwrap(), 7);
    }
}

/// A query that has begun runs to its end, so its connection must not count as free before; one that has not need not begin.
#[tokio::test]
async fn callers_that_go_away_disturb_no_others() {
    let Scene { readers, _folder } = scene();
    let connections = Kind::List.share().connections;
    let (ends, waits): (Vec<_>, Vec<_>) = (0..connections).map(|_| mpsc::channel::<()>()).unzip();
    for wait in waits {
        let (begun, started) = oneshot::channel();
        let readers = readers.clone();
        let caller = tokio::spawn(async move {
            let query = move |_: &Connection| {
                begun.send(()).unwrap();
                Ok(wait.recv().is_err())
            };
            readers.read(Kind::List, "wait", query).await
        });
        started.await.unwrap();
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
    }
    let (begun, start) = oneshot::channel();
    let mut left = Box::pin(
        readers.read(Kind::List, "list for a caller that leaves", move |_| {
            begun.send(()).unwrap();
            Ok(())
        }),
    );
    assert!(futures_util::poll!(&mut left).is_pending());
    drop(left);
    let mut next = Box::pin(readers.read(Kind::List, "read", number));
    assert!(
        futures_util::poll!(&mut next).is_pending(),
        "every connection is still out"
    );
    drop(ends);
    assert_eq!(next.await.unwrap(), 7);
    start.await.unwrap_err();
}
