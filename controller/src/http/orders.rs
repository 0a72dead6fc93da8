//! `/orders`: what devices were told to do, and what came of it.

use axum::{Json, extract::State};
use fleetmend_domain::order::State as OrderState;
use fleetmend_proto::OrderId;

use super::{
    ApiState,
    auth::Caller,
    devices::reason_of,
    problem::Problem,
    request::{Body, Named, Params},
    views::{
        Page, Reason,
        order::{Order, OrderDetail, Step},
    },
};
use crate::store::OrderFilter;

/// Parameters of the list.
pub const FILTERS: &[&str] = &["state", "device", "incident", "tier", "limit", "cursor"];

/// `GET /orders`: newest first.
pub async fn list(State(state): State<ApiState>, params: Params) -> Result<Json<Page<Order>>, Problem> {
    let filter = OrderFilter {
        state: params.word("state", OrderState::ALL, OrderState::from_word, OrderState::word)?,
        device: params.parsed("device")?,
        incident: params.parsed("incident")?,
        tier: params.parsed("tier")?,
    };
    let page = state.store.order_list(&filter, &params.page()?).await?;
    Ok(Json(Page::new(page, Order::from)))
}

/// `POST /orders/{id}/cancel`: at once where it waits; a device that has begun it is told to stop, and says when it has.
pub async fn cancel(
    State(state): State<ApiState>,
    caller: Caller,
    Named(id): Named<OrderId>,
    body: Option<Body<Reason>>,
) -> Result<Json<Order>, Problem> {
    let reason = reason_of(body)?;
    state.store.order_cancel(id, &caller.name, &reason, state.clock.now()).await?;
    tracing::info!(order_id = %id, by = caller.name, "order cancelled by hand");
    state.nudges.renew();
    state.nudges.decide();
    let order = state.store.order_get(id).await?.ok_or_else(|| Problem::not_found(format_args!("order {id}")))?;
    Ok(Json(order.into()))
}

/// `GET /orders/{id}`: with its steps.
pub async fn show(State(state): State<ApiState>, Named(id): Named<OrderId>) -> Result<Json<OrderDetail>, Problem> {
    let order = state.store.order_get(id).await?.ok_or_else(|| Problem::not_found(format_args!("order {id}")))?;
    let steps = state.store.order_steps(id).await?.into_iter().map(Step::from).collect();
    Ok(Json(OrderDetail { order: order.into(), steps }))
}
