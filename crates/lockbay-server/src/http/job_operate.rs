//! What an operator decides about many jobs at once.
//!
//! Whether it can be decided is the library's to say, for each job by itself.

use axum::Json;
use axum::extract::State;
use lockbay::clock::Timestamp;
use lockbay::job::{JobDecision, JobFilter, JobStatus, Jobs};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{JsonBody, check_reason};
use super::page;
use super::problem::Problem;

/// How many jobs one call decides upon unless it says otherwise.
const DEFAULT_LIMIT: usize = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(bulk))
}

/// A decision about all jobs that a filter matches.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct JobBulkBody {
    #[schema(inline)]
    decision: JobVerb,
    #[serde(default)]
    filter: JobFilterBody,
    /// Why, for the record
    reason: String,
    /// How many jobs this call looks at, 1 to 1000; 100
    limit: Option<usize>,
    /// Where an earlier call says to go on
    page_token: Option<String>,
    /// Means every job, where the filter says nothing
    #[serde(default)]
    all: bool,
    /// Only tells which jobs are meant
    #[serde(default)]
    dry_run: bool,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum JobVerb {
    Cancel,
    Retry,
}

/// Which jobs are meant.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct JobFilterBody {
    status: Option<String>,
    job_type: Option<String>,
    job_key: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
}

impl JobBulkBody {
    fn filter(&self) -> Result<JobFilter, Problem> {
        let JobFilterBody { status, job_type, job_key, created_after, created_before } =
            &self.filter;
        let chooses = status.is_some()
            || job_type.is_some()
            || job_key.is_some()
            || created_after.is_some()
            || created_before.is_some();
        if !chooses && !self.all {
            return Err(Problem::invalid(
                "the filter is empty: name what to choose by, or say \"all\": true if every job \
                 is meant",
            ));
        }
        Ok(JobFilter {
            status: status.as_deref().map(JobStatus::parse).transpose()?,
            job_type: job_type.clone(),
            job_key: job_key.clone(),
            created_after: *created_after,
            created_before: *created_before,
            ..JobFilter::default()
        })
    }

    fn decision(&self) -> JobDecision {
        match self.decision {
            JobVerb::Cancel => JobDecision::Cancel,
            JobVerb::Retry => JobDecision::Retry,
        }
    }
}

/// What came of a decision about many jobs.
#[derive(Serialize, ToSchema)]
struct JobBulk {
    /// How many jobs this call has found to decide upon
    matched: usize,
    /// What a dry run would have decided upon, as the jobs stand; what it would not is refused
    #[serde(skip_serializing_if = "Option::is_none")]
    would_operate: Option<Vec<JobStanding>>,
    operated: Vec<JobStanding>,
    refused: Vec<RefusedJob>,
    /// Where the next call goes on, if there may be more
    #[schema(required)]
    next_page_token: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct JobStanding {
    job_id: String,
    #[schema(value_type = String)]
    status: JobStatus,
}

#[derive(Serialize, ToSchema)]
struct RefusedJob {
    job_id: String,
    detail: String,
}

/// Decide about many jobs
///
/// All that a filter matches are cancelled or may run again, a page at a time.
/// A job that cannot be decided upon so is told with the reason, and the others go on. A retry
/// passes over those that a person has let run again already.
#[utoipa::path(
    post,
    path = "/v1/jobs/bulk",
    operation_id = "operate_jobs",
    tag = "jobs",
    request_body = JobBulkBody,
    responses(
        (status = 200, body = JobBulk, description = "What came of it for each job"),
    ),
)]
async fn bulk(
    State(app): State<App>,
    JsonBody(body): JsonBody<JobBulkBody>,
) -> Result<Json<JobBulk>, Problem> {
    check_reason(&body.reason)?;
    let (decision, filter) = (body.decision(), body.filter()?);
    let limit = body.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=page::MAX_PAGE_SIZE).contains(&limit) {
        let most = page::MAX_PAGE_SIZE;
        return Err(Problem::invalid(format!("limit is from 1 to {most}, not {limit}")));
    }
    let list_name = format!("jobs to operate {filter:?}");
    let next = page::place(&list_name, body.page_token.as_deref())?;
    let jobs = app.bay.jobs();
    let mut bulk = match body.dry_run {
        true => would_operate(jobs, &filter, next, limit, decision).await?,
        false => {
            let many = jobs.operate_all(&filter, next, limit, decision, &body.reason).await?;
            let mut bulk = JobBulk::of(many.items.len(), many.next);
            for (job_id, outcome) in many.items {
                match outcome {
                    Ok(status) => bulk.operated.push(JobStanding { job_id, status }),
                    Err(error) => {
                        bulk.refused.push(RefusedJob { job_id, detail: error.to_string() });
                    }
                }
            }
            let (operated, refused) = (bulk.operated.len(), bulk.refused.len());
            tracing::info!(operated, refused, reason = body.reason, "jobs_operated");
            bulk
        }
    };
    bulk.next_page_token = bulk.next_page_token.map(|place| page::token_of(&list_name, &place));
    Ok(Json(bulk))
}

async fn would_operate(
    jobs: &Jobs,
    filter: &JobFilter,
    next: Option<String>,
    limit: usize,
    decision: JobDecision,
) -> Result<JobBulk, Problem> {
    let page = jobs.list(filter, next, limit).await?;
    let mut bulk = JobBulk::of(0, page.next);
    let mut standing = Vec::new();
    for job in page.items.into_iter().filter(|job| !decision.passes_over(job)) {
        bulk.matched += 1;
        match decision.check(&job.job_id, job.status) {
            Ok(()) => standing.push(JobStanding { job_id: job.job_id, status: job.status }),
            Err(error) => {
                let (job_id, detail) = (job.job_id, error.to_string());
                bulk.refused.push(RefusedJob { job_id, detail });
            }
        }
    }
    bulk.would_operate = Some(standing);
    Ok(bulk)
}

impl JobBulk {
    fn of(matched: usize, next: Option<String>) -> Self {
        JobBulk {
            matched,
            would_operate: None,
            operated: Vec::new(),
            refused: Vec::new(),
            next_page_token: next,
        }
    }
}
