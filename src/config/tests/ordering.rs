//! The two settings of the ordering.

use super::given;

#[test]
fn both_settings_of_the_ordering_are_checked() {
    let wrong = given()
        .variable("ORDERLY_ORDERING", "age")
        .variable("ORDERLY_ORDERING_ON_FAILURE", "stop");
    let problems = wrong.load().unwrap_err().problems;
    assert!(problems[0].starts_with("ORDERLY_ORDERING (from the environment): `age` is not"));
    assert!(problems[1].starts_with("ORDERLY_ORDERING_ON_FAILURE (from the environment): `stop` is not"));
    assert_eq!(problems.len(), 2);
}
