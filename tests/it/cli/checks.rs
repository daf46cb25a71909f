//! `verify`, `doctor` and `migrate`: the commands that look at the store themselves.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Said, Shop, command, told};

/// A store of three completed orders whose server has stopped.
async fn stopped_shop() -> Shop {
    let shop = Shop::open(&[("ORDERLY_SIMULATED_SPEED", "0")]).await;
    for user_id in 1..=3 {
        shop.order(user_id).await;
        assert_eq!(shop.ended(user_id).await["status"], "Completed");
    }
    shop
}

fn finding(said: &Said) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error} in {}", said.stdout))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_store_is_verified_beside_its_running_server() {
    let shop = stopped_shop().await;
    let report = shop.told("verify --json").await.json();
    let sound =
        json!({"sound": true, "orders": 3, "events": 9, "keys": 3, "breaches_total": 0, "breaches": []});
    assert_eq!(report, sound);
    shop.close().await;
}

/// Each of these is a fault of a driver that would otherwise stay unseen.
#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_store_is_found_out() {
    let shop = stopped_shop().await;
    assert_eq!(shop.server.terminate().await, Some(0));
    let folder = shop.folder.path();
    let pristine = std::fs::read(folder.join("orderly.db")).unwrap();
    for tampering in [
        "update orders set status = 3 where order_id = 2",
        "update orders set version = 4 where order_id = 2",
        "update orders set attempts = 2 where order_id = 2",
        "delete from events where order_id = 2 and version = 2",
        "update events set kind = 4, status = 3 where order_id = 2 and version = 3",
        "delete from orders where order_id = 2",
        "update counters set completed = 4",
        "update counters set processing_micros = processing_micros + 1",
        "update orders set processing_at = 0 where order_id = 3",
        "update idempotency_keys set first_order_id = 9 where first_order_id = 2",
    ] {
        let file = Connection::open(folder.join("orderly.db")).unwrap();
        assert!(file.execute(tampering, []).unwrap() > 0, "{tampering}");
        drop(file);
        let said = told(command(folder, "verify --json")).await;
        assert_eq!(said.exit, Some(1), "{tampering}: {}{}", said.stdout, said.stderr);
        let report = finding(&said);
        assert_eq!(report["sound"], false, "{tampering}");
        assert!(
            report["breaches"][0]["detail"].is_string(),
            "{tampering}: {report}"
        );
        std::fs::write(folder.join("orderly.db"), &pristine).unwrap();
    }
    assert_eq!(told(command(folder, "verify")).await.exit, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_makes_no_store_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    told(command(folder.path(), "verify"))
        .await
        .assert_failed(1, "no store at");
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing was made"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_running_shop_healthy() {
    let shop = stopped_shop().await;
    let said = shop.told(&format!("doctor --json --port {}", shop.port())).await;
    let report = finding(&said);
    assert_eq!(
        (said.exit, &report["healthy"]),
        (Some(0), &json!(true)),
        "{report}"
    );
    let checks: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        checks,
        [
            "configuration",
            "disk",
            "store",
            "durability",
            "queue",
            "clock",
            "server"
        ]
    );
    for name in ["store", "durability", "queue", "clock", "server"] {
        let check = report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["name"] == name);
        assert_eq!(check.unwrap()["state"], "ok", "{report}");
    }
    let text = shop.told(&format!("doctor --port {}", shop.port())).await;
    assert!(text.stdout.contains("ok    store"), "{}", text.stdout);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_a_damaged_store_and_a_bad_setting_in_one_visit() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("orderly.db"),
        "not a database, but long enough to be read",
    )
    .unwrap();
    let mut command = command(folder.path(), "doctor --json");
    command.env("ORDERLY_CONCURRENCY", "many");
    let said = told(command).await;
    let report = finding(&said);
    assert_eq!(
        (said.exit, &report["healthy"]),
        (Some(1), &json!(false)),
        "{report}"
    );
    let failed: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["state"] == "fail")
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(failed, ["configuration", "store"], "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_a_newer_binary_is_left_alone_by_every_command() {
    let shop = stopped_shop().await;
    assert_eq!(shop.server.terminate().await, Some(0));
    let folder = shop.folder.path();
    let file = Connection::open(folder.join("orderly.db")).unwrap();
    file.execute(
        "insert into migrations (number, name, checksum) values (99, 'later', '')",
        [],
    )
    .unwrap();
    drop(file);
    told(command(folder, "serve")).await.assert_ended(78, "newer");
    for line in ["migrate", "migrate --dry-run", "verify"] {
        told(command(folder, line)).await.assert_failed(78, "newer");
    }
    let said = told(command(folder, "doctor --json")).await;
    assert_eq!(said.exit, Some(1), "{}", said.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_migrated_once_and_only_on_request_where_that_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let strict = |line: &str| {
        let mut command = command(folder.path(), line);
        command.env("ORDERLY_MIGRATE", "off");
        command
    };
    told(strict("serve")).await.assert_ended(78, "orderly migrate");
    assert_eq!(told(strict("migrate")).await.exit, Some(0));
    assert_eq!(
        told(strict("migrate")).await.exit,
        Some(0),
        "a second time there is nothing to do"
    );
    assert_eq!(told(strict("verify")).await.exit, Some(0));
}
