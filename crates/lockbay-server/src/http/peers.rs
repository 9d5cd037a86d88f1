//! How many connections each address has, so that one cannot take the places of all.
//!
//! This machine's own addresses are not counted. An IPv6 network of 64 bits counts as one address:
//! whoever has one of its addresses has all of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Who is connected, and how often each may be.
#[derive(Clone)]
pub(super) struct Peers {
    most: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection that is counted until this is dropped.
pub(super) struct Admitted {
    /// Nobody, for a connection that is not counted.
    counted: Option<(Peers, IpAddr)>,
}

impl Peers {
    /// Each may have so many connections.
    pub(super) fn new(most: usize) -> Self {
        Peers { most, open: Arc::default() }
    }

    /// Counts a connection of this address; none if it has as many as it may have.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Admitted> {
        let address = network(address);
        if address.is_loopback() {
            return Some(Admitted { counted: None });
        }
        // The count stays right whoever panicked beside it.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Admitted { counted: Some((self.clone(), address)) })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some((peers, address)) = self.counted.take() else { return };
        let mut open = peers.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&address) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(open.remove(&address)),
        }
    }
}

/// What is counted as one: an IPv4 address, also one that is mapped, or 64 bits of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        canonical @ (IpAddr::V4(_) | IpAddr::V6(_)) => canonical,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(peers: &Peers, address: &str) -> Option<Admitted> {
        peers.admit(address.parse().unwrap())
    }

    #[test]
    fn one_address_has_its_number_of_connections_and_leaves_room_for_others() {
        let peers = Peers::new(2);
        let first = admit(&peers, "192.0.2.1").expect("room");
        let _second = admit(&peers, "::ffff:192.0.2.1").expect("room for the same, mapped");
        assert!(admit(&peers, "192.0.2.1").is_none());
        assert!(admit(&peers, "192.0.2.2").is_some());
        drop(first);
        assert!(admit(&peers, "192.0.2.1").is_some());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_this_machine_is_not_counted() {
        let peers = Peers::new(1);
        let _held = admit(&peers, "2001:db8::1").expect("room");
        assert!(admit(&peers, "2001:db8::2").is_none());
        assert!(admit(&peers, "2001:db8:0:1::1").is_some());
        let ours: Vec<_> = ["127.0.0.1", "127.0.0.2", "::1", "::1", "::ffff:127.0.0.1"]
            .iter()
            .map(|address| admit(&peers, address).expect("loopback is not counted"))
            .collect();
        drop(ours);
    }

    #[test]
    fn nothing_is_kept_of_who_has_gone() {
        let peers = Peers::new(1);
        drop(admit(&peers, "192.0.2.1"));
        assert!(peers.open.lock().unwrap().is_empty());
    }
}
