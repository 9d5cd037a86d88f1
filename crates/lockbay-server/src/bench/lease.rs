//! Acquire and release, by the lease service and by hand; and what asking for leadership costs.

use std::hint::black_box;
use std::time::Duration;

use lockbay::LockBay;
use lockbay::lease::{Acquired, parse_token};
use lockbay::store::{Commit, Deadline, Fence, Guard, Key, Partition, Reply, Write};

use super::job::RAW;
use super::load::{self, Measured};

const TTL: Duration = Duration::from_secs(30);

pub(super) async fn ours(
    bay: &LockBay,
    concurrency: usize,
    count: usize,
) -> anyhow::Result<Measured> {
    let run = bay.clock().random_id();
    let bay = bay.clone();
    load::run(concurrency, count, move |n| {
        let bay = bay.clone();
        let name = format!("lease_{n}_{run}");
        async move {
            match bay.leases().acquire(&name, "bench", TTL).await? {
                Acquired::Granted(lease) => {
                    let token = parse_token(&lease.fencing_token)?;
                    Ok(bay.leases().release(&name, token).await?)
                }
                other @ (Acquired::Held { .. } | Acquired::Replayed(_)) => {
                    anyhow::bail!("a new lease is not free: {other:?}")
                }
            }
        }
    })
    .await
}

pub(super) async fn raw(
    bay: &LockBay,
    concurrency: usize,
    count: usize,
) -> anyhow::Result<Measured> {
    let run = bay.clock().random_id();
    let store = bay.store().clone();
    load::run(concurrency, count, move |n| {
        let store = store.clone();
        let key = Key::new(Partition::FIRST, RAW, format!("lease_{n}_{run}"));
        async move {
            let put = Write::Put {
                key: key.clone(),
                value: br#"{"holder":"bench"}"#.to_vec(),
                deadline: Deadline::After(TTL),
            };
            let guards = vec![Guard::Lapsed(key.clone())];
            let acquire = Commit::new(Partition::FIRST, guards, vec![put], vec![])?;
            let token = match store.commit(&acquire).await? {
                Reply::Committed { revision, .. } => revision,
                conflict @ Reply::Conflict { .. } => anyhow::bail!("refused: {conflict:?}"),
            };
            let fence = Fence { key: key.clone(), token };
            let delete = Write::Delete { key: key.clone() };
            let release =
                Commit::new(Partition::FIRST, vec![Guard::Held(fence)], vec![delete], vec![key])?;
            match store.commit(&release).await? {
                Reply::Committed { .. } => Ok(()),
                conflict @ Reply::Conflict { .. } => anyhow::bail!("refused: {conflict:?}"),
            }
        }
    })
    .await
}

/// The mean of ten million calls of `is_leader()` on an instance that leads.
pub(super) async fn is_leader_nanos(bay: &LockBay) -> f64 {
    const CALLS: u32 = 10_000_000;
    bay.start();
    while !bay.is_leader() {
        bay.clock().sleep(Duration::from_millis(1)).await;
    }
    let began = bay.clock().tick();
    let mut led = 0u32;
    for _ in 0..CALLS {
        led += u32::from(black_box(bay).is_leader());
    }
    black_box(led);
    bay.clock().tick().since(began).as_secs_f64() * 1e9 / f64::from(CALLS)
}
