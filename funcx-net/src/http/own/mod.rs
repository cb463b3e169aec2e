//! Our own routes, under `/v1`.

mod endpoints;
pub(super) mod events;
mod functions;
mod submit;
mod tasks;

use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::App;

/// All of them.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(functions::register, functions::list))
        .routes(routes!(functions::find))
        .routes(routes!(submit::submit))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::find))
        .routes(routes!(tasks::timeline))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::purge))
        .routes(routes!(events::follow))
        .routes(routes!(endpoints::register, endpoints::list))
        .routes(routes!(endpoints::find, endpoints::delete))
        .routes(routes!(endpoints::link))
}
