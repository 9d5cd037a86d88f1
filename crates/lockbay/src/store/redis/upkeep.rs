//! Upkeep on a server that others may use as well: what ours occupies, what the server holds, and
//! keys of others that may go.
//!
//! Nothing here is sent twice, so what is counted was done once: a call whose answer was lost is
//! `Unavailable`, and whoever cleans up comes again. What is deleted, and under which right, is
//! decided in `sweep.lua`, in one step per key. The pieces are small, for commits wait behind them.

use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, RedisError, Value};

use super::link::{self, Failure, Script, classify};
use super::{READ_PATIENCE, RedisStore, closed, wire};
use crate::error::{Error, ErrorKind, Result};
use crate::store::witness::rolled_back;
use crate::store::{
    Footprint, Foreign, ForeignRule, ForeignSwept, Key, Kind, Partition, Reclaimed, Upkeep,
};

/// Keys that one call weighs, and that one call checks and deletes.
const WEIGHED_AT_ONCE: usize = 500;
const SWEPT_AT_ONCE: usize = 100;
/// The most keys that one call of `SCAN` looks at.
const MOST_LOOKED_AT: usize = 10_000;
/// The most stars in a pattern for servers that match slowly.
const MOST_STARS: usize = 2;
/// The server counts idle time in 24 bits of seconds, and begins again at zero.
const MOST_IDLE: Duration = Duration::from_secs(0x00ff_ffff);
/// The server measures the memory it holds every 100 ms.
const MEASURED_AFTER: Duration = Duration::from_millis(250);
/// How far into a key the tag of a namespace can reach, and how long its name can be.
const TAG_WITHIN: usize = 96;

#[async_trait]
impl Upkeep for RedisStore {
    async fn count(&self, partition: Partition, kind: Kind) -> Result<u64> {
        let mut count = redis::cmd("ZCARD");
        count.arg(format!("{}k:{}", self.space.tag(partition), kind.name()));
        wire::number(&self.once(None, &count).await?)
    }

    async fn weigh(&self, keys: &[Key]) -> Result<u64> {
        let script = &self.space.scripts.weigh;
        let mut bytes = 0;
        for some in keys.chunks(WEIGHED_AT_ONCE) {
            let partition = some.first().map_or(Partition::FIRST, |key| key.partition);
            let mut call = script.call(&self.space.meta(partition), 64 * some.len());
            for key in some {
                call.arg(key.kind.name()).arg(&*key.id);
            }
            bytes += wire::number(&self.once(Some(script), &call).await?)?;
        }
        Ok(bytes)
    }

    async fn footprint(&self) -> Result<Footprint> {
        let [used_bytes, resident] = self.memory(["used_memory", "used_memory_rss"]).await?;
        Ok(Footprint { used_bytes, free_bytes: resident.saturating_sub(used_bytes) })
    }

    async fn reclaim(&self) -> Result<Reclaimed> {
        let [before] = self.memory(["used_memory_rss"]).await?;
        let mut purge = redis::cmd("MEMORY");
        purge.arg("PURGE");
        self.once(None, &purge).await?;
        self.space.clock.sleep(MEASURED_AFTER).await;
        let [after] = self.memory(["used_memory_rss"]).await?;
        Ok(Reclaimed { bytes: before.saturating_sub(after), more: false })
    }

    async fn advice(&self) -> Result<Vec<String>> {
        self.refresh_settings().await?;
        let tells = self.settings.lock().settings.tells_idle_times();
        Ok(if tells { Vec::new() } else { vec![no_idle_times()] })
    }

    fn foreign(&self) -> Option<&dyn Foreign> {
        Some(self)
    }
}

#[async_trait]
impl Foreign for RedisStore {
    async fn keys(&self, glob: &str, cursor: u64, count: usize) -> Result<(u64, Vec<Vec<u8>>)> {
        let stars = glob.matches('*').count();
        if stars > MOST_STARS && !self.settings.lock().settings.matches_quickly() {
            return Err(Error::invalid(format!(
                "this server may match a pattern of more than {MOST_STARS} * for ever, and this \
                 one has {stars}: use fewer, or update it to 6.2.11, 7.0.9 or later: {glob:?}"
            )));
        }
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(glob);
        scan.arg("COUNT").arg(count.clamp(1, MOST_LOOKED_AT));
        let mut parts = wire::items(self.once(None, &scan).await?)?.into_iter();
        let cursor = wire::text(parts.next().unwrap_or_default())?;
        let cursor = cursor.parse().map_err(|_| wire::garbled("cursor"))?;
        let mut keys = Vec::new();
        for key in wire::items(parts.next().unwrap_or_default())? {
            let Value::BulkString(key) = key else { return Err(wire::garbled("key")) };
            if !is_ours(&key) {
                keys.push(key);
            }
        }
        Ok((cursor, keys))
    }

    async fn sweep(&self, keys: &[Vec<u8>], rule: &ForeignRule) -> Result<ForeignSwept> {
        if rule.idle > MOST_IDLE {
            let (days, wanted) = (MOST_IDLE.as_secs() / 86_400, rule.idle.as_secs() / 86_400);
            return Err(Error::invalid(format!(
                "redis tells for how long a key was idle up to {days} days only, and this rule \
                 waits for {wanted}"
            )));
        }
        let mut swept = ForeignSwept::default();
        for (at, some) in keys.chunks(SWEPT_AT_ONCE).enumerate() {
            match self.sweep_some(some, rule).await {
                Ok(more) => {
                    swept.cleaned += more.cleaned;
                    swept.expiring += more.expiring;
                    swept.young += more.young;
                    swept.bytes += more.bytes;
                }
                Err(error) if at == 0 => return Err(error),
                // What was deleted is told; the next call tells the error.
                Err(_) => break,
            }
        }
        Ok(swept)
    }
}

impl RedisStore {
    async fn sweep_some(&self, keys: &[Vec<u8>], rule: &ForeignRule) -> Result<ForeignSwept> {
        let (fence, script) = (&rule.fence, &self.space.scripts.sweep);
        let meta = self.space.meta(fence.key.partition);
        let bytes = keys.iter().map(Vec::len).sum::<usize>() + 256;
        let mut call = script.call_with(&meta, keys, bytes);
        let idle = rule.idle.as_secs() + u64::from(rule.idle.subsec_nanos() > 0);
        call.arg(fence.key.kind.name())
            .arg(&*fence.key.id)
            .arg(fence.token.to_string())
            .arg(idle)
            .arg(u8::from(rule.expiring))
            .arg(u8::from(rule.dry_run));
        let parts = wire::items(self.once(Some(script), &call).await?)?;
        let mut parts = parts.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        match wire::number(&next())? {
            0 => Ok(ForeignSwept {
                cleaned: wire::number(&next())?,
                expiring: wire::number(&next())?,
                young: wire::number(&next())?,
                bytes: wire::number(&next())?,
            }),
            1 => {
                let message = format!("the right to clean up is gone: {}", fence.key);
                Err(Error::new(ErrorKind::Fenced, message))
            }
            2 => Err(rolled_back(&wire::text(next())?)),
            3 => Err(Error::invalid(no_idle_times())),
            _ => Err(wire::garbled("status")),
        }
    }

    /// Numbers out of what the server says of its memory.
    async fn memory<const N: usize>(&self, names: [&str; N]) -> Result<[u64; N]> {
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        let info = wire::text(self.once(None, &info).await?)?;
        let mut numbers = [0; N];
        for (number, name) in numbers.iter_mut().zip(names) {
            *number = number_in(&info, name).ok_or_else(|| wire::garbled("memory"))?;
        }
        Ok(numbers)
    }

    /// Sends a command, or a call of a script, once.
    async fn once(&self, script: Option<&Script>, call: &Cmd) -> Result<Value> {
        if self.closing.is_cancelled() {
            return Err(closed());
        }
        let mut up = self.space.link.up(READ_PATIENCE).await?;
        let epoch = up.epoch;
        let sent = async {
            match script {
                Some(script) => up.run(script, call).await,
                None => up.send(call).await.map_err(classify),
            }
        };
        let message = "redis does not answer in time";
        let unanswered = Error::new(ErrorKind::Unavailable, message);
        match self.space.clock.timeout(READ_PATIENCE, sent).await {
            Some(Ok(value)) => Ok(value),
            Some(Err(Failure::Refused(error))) => Err(link::refused(error)),
            Some(Err(Failure::Broken(error))) => Err(failed(error)),
            Some(Err(Failure::NotRun(error) | Failure::Unclear(error))) => {
                self.space.link.broken(epoch);
                Err(unanswered.with_source(error))
            }
            None => {
                self.space.link.broken(epoch);
                Err(unanswered)
            }
        }
    }
}

/// Whether a key is one of LockBay, of any namespace: those begin with `{NAMESPACE:PARTITION}:`.
/// The same as `is_ours` of `sweep.lua`.
fn is_ours(key: &[u8]) -> bool {
    let begin = &key[..key.len().min(TAG_WITHIN)];
    let Some(rest) = begin.strip_prefix(b"{") else { return false };
    let Some(end) = rest.iter().position(|byte| matches!(byte, b'{' | b'}')) else { return false };
    let Some(colon) = rest[..end].iter().rposition(|byte| *byte == b':') else { return false };
    let (namespace, partition) = (&rest[..colon], &rest[colon + 1..end]);
    (1..=super::MAX_NAMESPACE).contains(&namespace.len())
        && !partition.is_empty()
        && partition.iter().all(u8::is_ascii_digit)
        && rest[end..].starts_with(b"}:")
}

fn number_in(info: &str, name: &str) -> Option<u64> {
    let mut lines = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    lines.find(|(found, _)| *found == name)?.1.parse().ok()
}

fn no_idle_times() -> String {
    "keys of others cannot be swept, for the server does not tell how long they are idle: its \
     maxmemory-policy is an LFU one; set maxmemory-policy to noeviction"
        .into()
}

/// What a command means that the server answered with an error. A user without the right to a
/// command is told so in different words by different versions.
fn failed(error: RedisError) -> Error {
    let text = error.to_string();
    let forbidden = ["NOPERM", "no permissions", "can't run this command", "can't access"];
    if forbidden.iter().any(|words| text.contains(words)) || text.contains("unknown command") {
        let message = "redis forbids what cleaning up needs: allow this user SCAN, OBJECT, PTTL, \
                       MEMORY, INFO and UNLINK, on the keys that are to be swept";
        return Error::new(ErrorKind::Unauthorized, message).with_source(error);
    }
    Error::new(ErrorKind::Internal, "a command of upkeep failed on redis").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_namespace_are_ours_and_what_only_looks_like_them_is_not() {
        let longest = format!("{{{}:65535}}:meta", "n".repeat(64));
        for ours in ["{lockbay:0}:r:job/x", "{a:b:7}:k:", "{:x:1}:", &longest] {
            assert!(is_ours(ours.as_bytes()), "{ours}");
        }
        let too_long = format!("{{{}:0}}:meta", "n".repeat(65));
        for others in [
            "",
            "{",
            "{}",
            "{user}:1",
            "{x:y}:z",
            "{x:1}z",
            "{x:1}",
            "{x:}:z",
            "{:1}:z",
            "x{a:1}:",
            "{{a:1}:",
            "{a{:1}:",
            "{a:1:b}:c",
            "session:1",
            &too_long,
        ] {
            assert!(!is_ours(others.as_bytes()), "{others}");
        }
        assert!(!is_ours(&[b'{', 0xff, b':', b'x', b'}', b':']));
    }

    #[test]
    fn numbers_are_found_by_their_whole_name() {
        let info = "# Memory\r\nused_memory_rss:7\r\nused_memory:5\r\nused_memory_human:5B\r\n";
        assert_eq!(number_in(info, "used_memory"), Some(5));
        assert_eq!(number_in(info, "used_memory_rss"), Some(7));
        assert_eq!(number_in(info, "used_memory_human"), None);
    }
}
