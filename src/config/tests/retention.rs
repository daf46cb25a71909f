//! Retention of orders.

use std::time::Duration;

use super::given;

#[test]
fn orders_are_kept_forever_or_at_least_one_day() {
    let kept = |text: &str| given().variable("ORDERLY_RETENTION", text);
    assert_eq!(kept("keep").config().retention, None);
    let days = |days: u64| Some(Duration::from_hours(24 * days));
    assert_eq!(kept("90d").config().retention, days(90));
    assert_eq!(kept("1d").config().retention, days(1));
    for text in ["23h", "0s", "101y", "30", "never"] {
        let problem = kept(text).problem();
        assert!(
            problem.starts_with("ORDERLY_RETENTION (from the environment): `"),
            "{problem}"
        );
    }
    assert!(kept("1h").problem().contains("is not between 1day and 100years"));
}
