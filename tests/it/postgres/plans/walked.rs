//! Pages whose index does not hold all that is asked for.

use orderly::order::OrderStatus;
use orderly::store::OrderQuery;

use super::plan::Caught;
use super::story::{ALL_STATISTICS, BIG_USER, FINISHED, story};
use super::{PAGE_ORDERS, PAGES_MAX};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_walks_an_index_takes_it_in_its_order() {
    let mut wrong = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(scene) = story(statistics, FINISHED).await else {
            return;
        };
        let query = OrderQuery {
            status: Some(OrderStatus::Completed),
            user_id: Some(BIG_USER),
            reference: Some("order 500".to_owned()),
            limit: PAGE_ORDERS,
            ..OrderQuery::default()
        };
        scene.store.orders(query).await.unwrap();
        let values = format!("0, {}, {}, {BIG_USER}, 'order 500'", i64::MAX, PAGE_ORDERS + 1);
        let types = "int8, int8, int8, int8, text";
        let page = Caught::of(&scene, "page", "order_id desc limit $3", types, &values);
        let plan = page.plan(&scene).await;
        let walk = plan.part("CTE walk_0");
        let (indexes, pages) = (plan.indexes(), plan.pages());
        if indexes != ["orders_pkey", "orders_reference"] || walk.sorts() || pages > PAGES_MAX {
            wrong.push(format!("{statistics:?}: {indexes:?}, {pages} pages, {walk}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
