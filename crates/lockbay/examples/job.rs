//! A payment that is made once, however often it is asked for.
//!
//! `cargo run --example job`

#![allow(clippy::print_stdout)]

use lockbay::job::{ClaimRequest, JobContext, JobFailure, JobOutcome, RunOptions};
use lockbay::{Config, Json, LockBay, Placement};

/// The handler. It hands the idempotency token on, so that the bank can refuse a duplicate should
/// this process die between the payment and its record.
async fn pay(job: JobContext) -> Result<Json, JobFailure> {
    println!("paying {} (attempt {})", job.parameters.text(), job.attempt);
    let transaction = format!("txn_{}", job.idempotency_token);
    Ok(Json::from_value(&serde_json::json!({ "transaction_id": transaction }))?)
}

#[tokio::main]
async fn main() -> lockbay::Result<()> {
    let directory = std::env::temp_dir().join("lockbay-example-job");
    let store = format!("sqlite:{}/lockbay.db", directory.display());
    let bay = LockBay::open(Config { store, ..Config::default() }).await?;
    bay.start();
    let parameters = Json::parse(r#"{"user_id":12345,"amount":1000.00,"currency":"USD"}"#)?;
    let request = ClaimRequest::new("payment_processing", "order_17", parameters);
    for round in 1..=3 {
        let options = RunOptions::default();
        let outcome = bay.run_job(request.clone(), Placement::Anywhere, options, pay).await?;
        match outcome {
            JobOutcome::Completed(result) => println!("{round}: paid now: {}", result.text()),
            JobOutcome::Replayed(earlier) => {
                println!("{round}: paid before: {:?}", earlier.result);
            }
            JobOutcome::Failed(error) => println!("{round}: failed for good: {error}"),
            JobOutcome::InProgress(job) => println!("{round}: {} is at it", job.holder),
        }
    }
    bay.shutdown().await;
    Ok(())
}
