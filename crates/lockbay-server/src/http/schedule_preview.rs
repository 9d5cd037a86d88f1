//! `GET /v1/schedule-preview`: when an expression would be due, before anybody puts a schedule.
//!
//! It reads the clock of this machine and no store; what a schedule that exists is due is told by
//! its own route.

use axum::Json;
use axum::extract::State;
use lockbay::schedule::{Expression, MAX_UPCOMING};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::Query;
use super::problem::Problem;

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
    /// How many, 1 to 1000; 10 unless it is said.
    count: Option<usize>,
}

/// When it would be due.
#[derive(Serialize, ToSchema)]
#[schema(as = SchedulePreview)]
struct Preview {
    /// The next times, in UTC.
    #[schema(value_type = Vec<String>)]
    due: Vec<lockbay::clock::Timestamp>,
    /// The zone by which they were found.
    time_zone: String,
}

/// When an expression would be due, counted from now.
#[utoipa::path(
    get,
    path = "/v1/schedule-preview",
    operation_id = "preview_schedule",
    tag = "schedules",
    params(Wish),
    responses(
        (status = 200, body = Preview, description = "The next times at which it would be due."),
        (status = 400, description = "The expression, the zone or the count cannot be read."),
    )
)]
async fn preview_schedule(
    State(app): State<App>,
    Query(wish): Query<Wish>,
) -> Result<Json<Preview>, Problem> {
    let count = wish.count.unwrap_or(DEFAULT_COUNT);
    if !(1..=MAX_UPCOMING).contains(&count) {
        let detail = format!("count is from 1 to {MAX_UPCOMING}, not {count}");
        return Err(Problem::invalid(detail));
    }
    let time_zone = wish.time_zone.unwrap_or_else(|| "UTC".into());
    let expression = Expression::parse(&wish.schedule_expression, &time_zone)?;
    let due = expression.upcoming(app.bay.clock().now(), count);
    Ok(Json(Preview { due, time_zone }))
}
