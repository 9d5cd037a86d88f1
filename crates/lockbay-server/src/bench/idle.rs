//! What an instance costs that has nothing to do: time on the processor, and memory.
//!
//! Everything is on that a server has on but HTTP: it leads, watches its health, cleans up, samples
//! its metrics. The process is its own measure, as the kernel tells.

use std::sync::Arc;
use std::time::Duration;

use lockbay::LockBay;
use lockbay::config::Config;
use lockbay::store::Store;

use crate::cli::output;

/// The start is not counted: elections, first looks, caches.
const WARM_UP: Duration = Duration::from_secs(3);

pub(super) async fn run(store: Arc<dyn Store>, seconds: u16, json: bool) -> anyhow::Result<()> {
    let clock = lockbay::clock::Clock::system();
    let bay = LockBay::with_store(Config::default(), store, clock.clone());
    bay.start();
    clock.sleep(WARM_UP).await;
    let spent = || {
        bay.refresh_metrics();
        bay.metrics().read("system_metrics.process_cpu_ms").unwrap_or_default()
    };
    let (before, begun) = (spent(), clock.tick());
    clock.sleep(Duration::from_secs(u64::from(seconds))).await;
    let cpu_ms = spent() - before;
    let millis = clock.tick().since(begun).as_secs_f64() * 1e3;
    let percent = (cpu_ms / millis * 1e4).round() / 100.0;
    let resident = bay.metrics().read("system_metrics.process_memory_bytes").unwrap_or_default();
    let mebibytes = (resident / 1_048_576.0 * 10.0).round() / 10.0;
    output::data(&if json {
        let backend = bay.store().describe().backend;
        serde_json::json!({
            "bench": "idle", "store": backend, "seconds": seconds,
            "cpu_percent": percent, "rss_mib": mebibytes,
        })
        .to_string()
    } else {
        format!("idle for {seconds} s: {percent} % of a core, {mebibytes} MiB resident")
    });
    bay.shutdown().await;
    Ok(())
}
