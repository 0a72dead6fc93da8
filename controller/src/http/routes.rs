//! The route table: every route with who may call it and which query parameters it takes. The router is built from it,
//! so that no route can be without a policy.

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, StatusCode},
    middleware,
    routing::{MethodFilter, MethodRouter, on},
};

use super::{
    ApiState, auth, auth::Gate, catalog, devices, health, incidents, orders, problem::Problem, respond, role::Role,
    summary,
};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everybody: tells nothing of the fleet.
    Open,
    /// A token of one of these roles.
    Roles(&'static [Role]),
}

pub struct Route {
    pub verb: Verb,
    pub path: &'static str,
    pub policy: Policy,
    /// Query parameters it takes; any other is refused by name.
    pub query: &'static [&'static str],
    handler: fn(MethodFilter) -> MethodRouter<ApiState>,
}

/// No other method changes or shows anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Post,
}

impl Verb {
    #[must_use]
    pub const fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Post => Method::POST,
        }
    }

    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
        }
    }
}

/// Whoever may look.
const READ: Policy = Policy::Roles(&[Role::Viewer, Role::Operator, Role::Admin]);
/// Whoever may let devices into the fleet and throw them out.
const ADMIT: Policy = Policy::Roles(&[Role::Operator, Role::Admin]);
/// Whoever may ask for remedies. Not an admin: who hands out tokens orders nothing.
const OPERATE: Policy = Policy::Roles(&[Role::Operator]);

const fn route(
    verb: Verb,
    path: &'static str,
    policy: Policy,
    query: &'static [&'static str],
    handler: fn(MethodFilter) -> MethodRouter<ApiState>,
) -> Route {
    Route { verb, path, policy, query, handler }
}

/// Every route there is.
pub const ROUTES: &[Route] = &[
    route(Verb::Get, "/healthz", Policy::Open, &[], |verb| on(verb, health::alive)),
    route(Verb::Get, "/readyz", Policy::Open, &[], |verb| on(verb, health::ready)),
    route(Verb::Get, "/api/v1/summary", READ, &[], |verb| on(verb, summary::show)),
    route(Verb::Get, "/api/v1/devices", READ, devices::FILTERS, |verb| on(verb, devices::list)),
    route(Verb::Post, "/api/v1/devices/approve", ADMIT, &[], |verb| on(verb, devices::approve_serials)),
    route(Verb::Get, "/api/v1/devices/{id}", READ, &[], |verb| on(verb, devices::show)),
    route(Verb::Post, "/api/v1/devices/{id}/approve", ADMIT, &[], |verb| on(verb, devices::approve)),
    route(Verb::Post, "/api/v1/devices/{id}/ban", ADMIT, &[], |verb| on(verb, devices::ban)),
    route(Verb::Post, "/api/v1/devices/{id}/remediate", OPERATE, &[], |verb| on(verb, devices::remediate)),
    route(Verb::Get, "/api/v1/incidents", READ, incidents::FILTERS, |verb| on(verb, incidents::list)),
    route(Verb::Get, "/api/v1/incidents/{id}", READ, &[], |verb| on(verb, incidents::show)),
    route(Verb::Post, "/api/v1/incidents/{id}/dismiss", OPERATE, &[], |verb| on(verb, incidents::dismiss)),
    route(Verb::Get, "/api/v1/orders", READ, orders::FILTERS, |verb| on(verb, orders::list)),
    route(Verb::Get, "/api/v1/orders/{id}", READ, &[], |verb| on(verb, orders::show)),
    route(Verb::Post, "/api/v1/orders/{id}/cancel", OPERATE, &[], |verb| on(verb, orders::cancel)),
    route(Verb::Get, "/api/v1/catalog", READ, catalog::FILTERS, |verb| on(verb, catalog::list)),
    route(Verb::Get, "/api/v1/catalog/{code}", READ, &[], |verb| on(verb, catalog::show)),
];

/// The whole HTTP side: the table's routes behind their gates, problem details for everything else.
pub fn router(state: ApiState) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let gate = Gate { state: state.clone(), policy: route.policy, query: route.query };
        let handler = (route.handler)(route.verb.filter());
        router = router.route(route.path, handler.route_layer(middleware::from_fn_with_state(gate, auth::pass)));
    }
    router
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this route does not take that method")
        })
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "no-such-route", "there is no such route; see docs/api.md")
        })
        .layer(DefaultBodyLimit::max(state.max_body))
        .layer(middleware::map_response(respond::harden))
        .with_state(state)
}
