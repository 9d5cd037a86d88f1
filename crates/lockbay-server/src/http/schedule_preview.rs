//! `GET /v1/schedule-preview`: when an expression would be due, before anybody puts a schedule.
//!
//! It reads the clock of this machine and no store; what a schedule that exists is due is told by
//! its own route.

use axum::Json;
use axum::extract::State;
use lockbay::schedule::{Expression, MAX_UPCOMING, Upcoming};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::Query;
use super::problem::Problem;
use super::shape;

/// How many due times are told when nobody says.
const DEFAULT_COUNT: usize = 10;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(preview_schedule))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wish {
    /// A cron expression of five or six fields, a nickname, or an interval.
    schedule_expression: String,
    /// A name of the IANA database; UTC unless it is said.
    time_zone: Option<String>,
    /// How many due times to tell.
    #[param(minimum = 1, maximum = 1_000, default = 10)]
    count: Option<usize>,
}

/// Preview when a schedule would be due
///
/// The next due times of an expression, counted from now by the clock of this machine. Nothing is
/// put.
#[utoipa::path(
    get,
    path = "/v1/schedule-preview",
    operation_id = "preview_schedule",
    tag = "schedules",
    params(Wish),
    responses(
        (status = 200, body = shape::UpcomingTicks, description = "When it would be due.")
    ),
)]
async fn preview_schedule(
    State(app): State<App>,
    Query(wish): Query<Wish>,
) -> Result<Json<Upcoming>, Problem> {
    let count = wish.count.unwrap_or(DEFAULT_COUNT);
    if !(1..=MAX_UPCOMING).contains(&count) {
        let detail = format!("count is from 1 to {MAX_UPCOMING}, not {count}");
        return Err(Problem::invalid(detail));
    }
    let time_zone = wish.time_zone.unwrap_or_else(|| "UTC".into());
    let expression = Expression::parse(&wish.schedule_expression, &time_zone)?;
    let due = expression.upcoming(app.bay.clock().now(), count);
    Ok(Json(Upcoming { due, time_zone }))
}
