//! Gauges that nobody sets when they change: read from the services, and from the kernel, when
//! somebody wants to know.

use super::LockBay;
use crate::metrics::{Metric, Process};

impl LockBay {
    /// Brings gauges up to date that are read from elsewhere: what is at hand, what cleanup came to,
    /// what the process uses. It is done before each sample; whoever shows metrics does it first.
    pub fn refresh_metrics(&self) {
        let (inner, metrics) = (&self.0, &self.0.metrics);
        let (entries, bytes) = inner.state.at_hand();
        let cleanup = inner.sweeper.stats();
        metrics.set_real(Metric::Uptime, self.uptime().as_secs_f64());
        metrics.set(Metric::SagaHandlers, whole(inner.sagas.registered_handlers() as u64));
        metrics.set(Metric::StateEntries, whole(entries));
        metrics.set(Metric::StateBytes, whole(bytes));
        metrics.set_real(Metric::CleanupLast, cleanup.last_cleanup_time_ms);
        metrics.set_real(Metric::CleanupFreed, cleanup.memory_freed_total_mb);
        metrics.set_real(Metric::CleanupEfficiency, cleanup.cleanup_efficiency);
        metrics.set(Metric::ActiveKeys, whole(cleanup.active_keys_count));
        let process = Process::look();
        let gauges = [
            (Metric::ProcessMemory, process.resident_bytes),
            (Metric::ProcessThreads, process.threads),
            (Metric::ProcessFiles, process.open_files),
            (Metric::ProcessStart, process.started_seconds),
        ];
        for (metric, value) in gauges {
            value.inspect(|value| metrics.set(metric, whole(*value)));
        }
        process.cpu_ms.inspect(|millis| metrics.reach(Metric::ProcessCpu, *millis));
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
