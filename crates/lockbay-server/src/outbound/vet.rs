//! Which addresses may be called: whoever may register an endpoint must not reach through us what
//! only we can reach.
//!
//! An address is vetted where it is used. A literal one is vetted in the URL, after the URL parser
//! has brought every odd spelling to one form; a name is vetted in the resolver of the HTTP client,
//! which connects to exactly the addresses that it was given. So a name that resolves differently
//! a moment later gains nothing. There is no state here; names are looked up for every connection.

use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The longest URL that is called, in bytes.
pub(crate) const MAX_URL_BYTES: usize = 2_048;

/// Which addresses may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Those that everybody can reach.
    Public,
    /// Also loopback and private networks: for endpoints beside the server.
    Private,
}

impl Reach {
    /// The variable that says it.
    pub(crate) const VARIABLE: &'static str = "LOCKBAY_HANDLERS_ALLOW_PRIVATE";

    /// By the value of [`VARIABLE`](Reach::VARIABLE): public addresses alone unless it is `true`.
    ///
    /// # Errors
    /// What is wrong with it, if it is neither `true` nor `false`.
    pub(crate) fn of(value: Option<&str>) -> Result<Self, String> {
        match value.map(str::trim) {
            None | Some("" | "false") => Ok(Reach::Public),
            Some("true") => Ok(Reach::Private),
            Some(other) => Err(format!("{} is true or false, not {other:?}", Reach::VARIABLE)),
        }
    }

    fn admits(self, network: &str) -> bool {
        self == Reach::Private && PRIVATE.contains(&network)
    }
}

/// Why an address is not called. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Refused {}

/// What [`Reach::Private`] admits beyond public addresses. The rest is never an endpoint, or
/// belongs to the platform beneath us, whose metadata holds credentials.
const PRIVATE: &[&str] = &[LOOPBACK, PRIVATE_USE, SHARED];

const LOOPBACK: &str = "loopback";
const PRIVATE_USE: &str = "private";
const SHARED: &str = "behind a carrier's NAT";
const METADATA: &str = "the metadata service of a cloud";

/// Networks that are not public: address, prefix length, what it is. The first that fits counts.
/// From the IANA IPv4 special-purpose registry, and the services of clouds.
const NETWORKS_V4: &[(Ipv4Addr, u32, &str)] = &[
    (Ipv4Addr::new(168, 63, 129, 16), 32, METADATA), // Azure, in the middle of public addresses
    (Ipv4Addr::new(100, 100, 100, 200), 32, METADATA), // Alibaba
    (Ipv4Addr::new(0, 0, 0, 0), 8, "unspecified"),   // Linux takes 0.0.0.0 for loopback
    (Ipv4Addr::new(10, 0, 0, 0), 8, PRIVATE_USE),
    (Ipv4Addr::new(100, 64, 0, 0), 10, SHARED),
    (Ipv4Addr::new(127, 0, 0, 0), 8, LOOPBACK),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, PRIVATE_USE),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "kept for protocols"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a 6to4 relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, PRIVATE_USE),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(255, 255, 255, 255), 32, "broadcast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// The same for IPv6. What is outside 2000::/3 and not named here is not public either.
const NETWORKS_V6: &[(Ipv6Addr, u32, &str)] = &[
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32, METADATA), // Amazon
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0), 32, METADATA),  // Google
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, LOOPBACK),
    (Ipv6Addr::UNSPECIFIED, 96, "IPv4 in an obsolete form"),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, PRIVATE_USE),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "site-local"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, "a Teredo tunnel"),
    // With benchmarking (2001:2::/48) and identifiers that are no addresses (2001:20::/28).
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "kept for protocols"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "for documentation"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "for documentation"),
];

/// Refuses an address that may not be called.
///
/// # Errors
/// What kind of address it is.
pub(crate) fn vet_address(address: IpAddr, reach: Reach) -> Result<(), Refused> {
    let network = match address {
        IpAddr::V4(address) => network_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => network_v4(inner),
            None => network_v6(address),
        },
    };
    match network {
        Some(network) if !reach.admits(network) => {
            let advice = if PRIVATE.contains(&network) {
                format!("; {}=true allows it", Reach::VARIABLE)
            } else {
                String::new()
            };
            Err(Refused(format!("an address that is {network} is not called: {address}{advice}")))
        }
        Some(_) | None => Ok(()),
    }
}

/// The IPv4 address to which a packet for this address goes: mapped, through NAT64, or by 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    let at = match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => 12,
        [0x2002, ..] => 2,
        _ => return None,
    };
    let inner: [u8; 4] = octets[at..at + 4].try_into().expect("four of sixteen octets");
    Some(inner.into())
}

fn network_v4(address: Ipv4Addr) -> Option<&'static str> {
    let fits = |(network, length, _): &&(Ipv4Addr, u32, &str)| {
        (address.to_bits() ^ network.to_bits()).leading_zeros() >= *length
    };
    NETWORKS_V4.iter().find(fits).map(|(_, _, name)| *name)
}

fn network_v6(address: Ipv6Addr) -> Option<&'static str> {
    let fits = |(network, length, _): &&(Ipv6Addr, u32, &str)| {
        (address.to_bits() ^ network.to_bits()).leading_zeros() >= *length
    };
    let named = NETWORKS_V6.iter().find(fits).map(|(_, _, name)| *name);
    let is_global = address.segments()[0] >> 13 == 1;
    named.or((!is_global).then_some("reserved"))
}

/// The URL of an endpoint, if it can be called; names are vetted when they are resolved.
///
/// # Errors
/// What is wrong with it. The text may hold a secret, so that it is not repeated.
pub(crate) fn vet_url(text: &str, reach: Reach) -> Result<Url, Refused> {
    let refused = |reason: String| Err(Refused(reason));
    if text.len() > MAX_URL_BYTES {
        let length = text.len();
        return refused(format!("a URL has at most {MAX_URL_BYTES} bytes, this has {length}"));
    }
    // The parser would leave some of them out, and two readers would see two different URLs.
    let is_foreign = |letter: char| letter.is_control() || letter.is_whitespace() || letter == '\\';
    if text.chars().any(is_foreign) {
        return refused("a URL has no spaces, no backslashes and no control characters".into());
    }
    let url = Url::parse(text).map_err(|error| Refused(format!("not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return refused(format!("a URL begins with http or https, not with {:?}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refused("a URL holds no user and no password; requests are signed instead".into());
    }
    if url.fragment().is_some() {
        return refused("a URL has no fragment: it would not be sent".into());
    }
    let Some(host) = url.host_str() else { return refused("a URL names a host".into()) };
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let name = host.strip_suffix('.').unwrap_or(host);
    if literal.is_err() {
        vet_name(name)?;
    }
    let is_local = name == "localhost" || name.ends_with(".localhost");
    match literal {
        Ok(address) => vet_address(address, reach)?,
        Err(_) if is_local => vet_address(Ipv4Addr::LOCALHOST.into(), reach)?,
        Err(_) => {}
    }
    Ok(url)
}

/// Refuses what a parser of URLs lets through as a name and others take for something else. What a
/// plain name resolves to is vetted when it is resolved.
fn vet_name(name: &str) -> Result<(), Refused> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let is_label = |label: &str| !label.is_empty() && label.chars().all(is_plain);
    let last = name.rsplit('.').next().unwrap_or_default();
    if !name.split('.').all(is_label) || last.starts_with(|first: char| first.is_ascii_digit()) {
        let what = "the host of a URL has labels of letters, digits and dashes with dots between, and \
                    its last does not begin with a digit";
        return Err(Refused(what.into()));
    }
    Ok(())
}

/// Resolves names, and refuses a name if any of its addresses may not be called.
pub(crate) struct VettingResolver {
    inner: Arc<dyn Resolve>,
    reach: Reach,
}

impl VettingResolver {
    /// Vets what `inner` finds.
    pub(crate) fn new(inner: Arc<dyn Resolve>, reach: Reach) -> Self {
        VettingResolver { inner, reach }
    }
}

impl Resolve for VettingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let (found, reach) = (self.inner.resolve(name), self.reach);
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = found.await?.collect();
            for address in &addresses {
                vet_address(address.ip(), reach)
                    .map_err(|Refused(reason)| Refused(format!("host {host:?}: {reason}")))?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The resolver of this machine.
pub(crate) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The client puts the port of the URL in the place of port 0.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Address; what becomes of it when only public ones are called, and with private ones.
    #[rustfmt::skip]
    const ADDRESSES: &[(&str, bool, bool)] = &[
        ("8.8.8.8", true, true), ("1.0.0.1", true, true), ("9.255.255.255", true, true),
        ("11.0.0.0", true, true), ("100.63.255.255", true, true), ("100.128.0.0", true, true),
        ("126.255.255.255", true, true), ("128.0.0.0", true, true),
        ("169.253.255.255", true, true), ("169.255.0.0", true, true),
        ("172.15.255.255", true, true), ("172.32.0.0", true, true),
        ("192.167.255.255", true, true), ("192.169.0.0", true, true), ("192.0.1.0", true, true),
        ("198.17.255.255", true, true), ("198.20.0.0", true, true), ("198.51.101.0", true, true),
        ("223.255.255.255", true, true), ("168.63.129.17", true, true),
        ("127.0.0.1", false, true), ("127.255.255.255", false, true),
        ("10.0.0.0", false, true), ("10.255.255.255", false, true),
        ("172.16.0.0", false, true), ("172.31.255.255", false, true),
        ("192.168.0.0", false, true), ("192.168.255.255", false, true),
        ("100.64.0.0", false, true), ("100.127.255.255", false, true),
        ("0.0.0.0", false, false), ("0.1.2.3", false, false),
        ("169.254.0.0", false, false), ("169.254.169.254", false, false),
        ("168.63.129.16", false, false), ("100.100.100.200", false, false),
        ("192.0.0.1", false, false), ("192.0.2.255", false, false), ("192.88.99.1", false, false),
        ("198.18.0.0", false, false), ("198.19.255.255", false, false),
        ("198.51.100.7", false, false), ("203.0.113.255", false, false),
        ("224.0.0.1", false, false), ("239.255.255.255", false, false),
        ("240.0.0.0", false, false), ("255.255.255.254", false, false),
        ("255.255.255.255", false, false),
        ("2606:4700:4700::1111", true, true), ("2001:200::1", true, true),
        ("2001:4860:4860::8888", true, true), ("2a00::1", true, true),
        ("2001:db7:ffff::1", true, true), ("3ffe::1", true, true),
        ("::1", false, true), ("fc00::1", false, true), ("fdff:ffff::1", false, true),
        ("::", false, false), ("fe80::1", false, false), ("febf::1", false, false),
        ("fec0::1", false, false), ("feff::1", false, false), ("ff02::1", false, false),
        ("fd00:ec2::254", false, false), ("fd20:ce::254", false, false),
        ("2001:db8::1", false, false), ("3fff:fff::1", false, false),
        ("2001:2::1", false, false), ("2001:10::1", false, false), ("2001:20::1", false, false),
        ("100::1", false, false), ("5f00::1", false, false), ("4000::1", false, false),
        ("64:ff9b:1::7f00:1", false, false), ("::2", false, false),
        // IPv4 inside: mapped, compatible, translated, NAT64, 6to4, Teredo.
        ("::ffff:8.8.8.8", true, true), ("::ffff:127.0.0.1", false, true),
        ("::ffff:10.1.2.3", false, true), ("::ffff:169.254.169.254", false, false),
        ("::127.0.0.1", false, false), ("::8.8.8.8", false, false),
        ("::ffff:0:127.0.0.1", false, false),
        ("64:ff9b::8.8.8.8", true, true), ("64:ff9b::10.0.0.1", false, true),
        ("64:ff9b::169.254.169.254", false, false), ("64:ff9b::255.255.255.255", false, false),
        ("2002:808:808::1", true, true), ("2002:7f00:1::1", false, true),
        ("2002:a9fe:a9fe::1", false, false), ("2002:c0a8:101::1", false, true),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", false, false), ("2001::1", false, false),
    ];

    #[test]
    fn only_public_addresses_are_called_and_private_ones_by_permission() {
        for (text, public, private) in ADDRESSES {
            let address: IpAddr = text.parse().unwrap();
            let called = |reach| vet_address(address, reach).is_ok();
            assert_eq!(called(Reach::Public), *public, "{text}");
            assert_eq!(called(Reach::Private), *private, "{text} with private ones");
        }
    }

    /// URL; whether it is called when only public addresses are.
    const URLS: &[(&str, bool)] = &[
        ("https://example.com/hook", true),
        ("http://example.com:8080/hook?a=b", true),
        ("https://example.com:22/", true),
        ("HTTPS://EXAMPLE.COM", true),
        ("https://8.8.8.8/", true),
        ("https://[2606:4700:4700::1111]/", true),
        ("https://ex\u{e4}mple.com/", true),
        ("ftp://example.com/", false),
        ("file:///etc/passwd", false),
        ("gopher://example.com/", false),
        ("unix:/run/docker.sock", false),
        ("data:text/plain,x", false),
        ("http://", false),
        ("http:///", false),
        ("/hook", false),
        ("", false),
        ("example.com/hook", false),
        ("http://user@example.com/", false),
        ("http://user:word@example.com/", false),
        ("http://:word@example.com/", false),
        ("http://example.com@127.0.0.1/", false),
        ("https://example.com/#part", false),
        ("https://example.com/#", false),
        ("https://exa\tmple.com/", false),
        ("https://example.com/a\r\nx-evil: 1", false),
        (" https://example.com/", false),
        ("https://example.com/a b", false),
        ("http://127.0.0.1/", false),
        ("http://127.0.0.1./", false),
        ("http://127.1/", false),
        ("http://127.0.1/", false),
        ("http://0x7f.1/", false),
        ("http://0x7f000001/", false),
        ("http://0X7F.0.0.0x1/", false),
        ("http://2130706433/", false),
        ("http://017700000001/", false),
        ("http://0177.0.0.1/", false),
        ("http://0/", false),
        ("http://127%2e0%2e0%2e1/", false),
        ("http://%31%32%37.0.0.1/", false),
        ("http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/", false),
        ("http://127\u{3002}0\u{3002}0\u{3002}1/", false),
        ("http:\\\\127.0.0.1\\", false),
        ("http:127.0.0.1", false),
        ("http://169.254.169.254/latest/meta-data/", false),
        ("http://0xa9fea9fe/", false),
        ("http://2852039166/", false),
        ("http://10.0.0.1:8080/", false),
        ("http://[::1]/", false),
        ("http://[0:0:0:0:0:0:0:1]/", false),
        ("http://[::ffff:127.0.0.1]/", false),
        ("http://[::ffff:7f00:1]/", false),
        ("http://[64:ff9b::127.0.0.1]/", false),
        ("http://[fe80::1]/", false),
        ("http://[fe80::1%25eth0]/", false),
        ("http://localhost/", false),
        ("http://LOCALHOST./", false),
        ("http://a.localhost:1/", false),
        ("http://256.0.0.1/", false),
        ("http://1.2.3.4.5/", false),
    ];

    #[test]
    fn an_endpoint_is_called_only_by_a_plain_http_url_of_a_public_host() {
        for (text, called) in URLS {
            assert_eq!(vet_url(text, Reach::Public).is_ok(), *called, "{text:?}");
        }
        let long = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES - 20));
        assert!(vet_url(&long, Reach::Public).is_ok());
        assert!(vet_url(&format!("{long}a"), Reach::Public).is_err());
    }

    #[test]
    fn private_hosts_are_called_by_permission_however_they_are_spelt() {
        for text in ["http://localhost:1/", "http://0x7f.1/", "http://[::1]:1/", "http://10.1/"] {
            assert!(vet_url(text, Reach::Private).is_ok(), "{text}");
        }
        for text in ["http://0/", "http://169.254.169.254/", "http://[fe80::1]/"] {
            assert!(vet_url(text, Reach::Private).is_err(), "{text}");
        }
    }

    #[test]
    fn a_refusal_does_not_repeat_the_secrets_of_a_url() {
        for text in ["http://user:hush@example.com/", "http://example.com/?key=hush#x", "hush"] {
            let refused = vet_url(text, Reach::Public).unwrap_err();
            assert!(!refused.to_string().contains("hush"), "{refused}");
        }
    }

    #[test]
    fn private_addresses_are_allowed_by_the_word_true_alone() {
        assert_eq!(Reach::of(None), Ok(Reach::Public));
        assert_eq!(Reach::of(Some("")), Ok(Reach::Public));
        assert_eq!(Reach::of(Some("false")), Ok(Reach::Public));
        assert_eq!(Reach::of(Some("true")), Ok(Reach::Private));
        assert!(Reach::of(Some("1")).is_err());
    }

    /// Finds a public address, and from the second time on a private one.
    struct Rebinding(AtomicUsize);

    impl Resolve for Rebinding {
        fn resolve(&self, name: Name) -> Resolving {
            let first = self.0.fetch_add(1, Ordering::Relaxed) == 0;
            Fixed(if first { &["8.8.8.8"] } else { &["10.0.0.1"] }).resolve(name)
        }
    }

    #[tokio::test]
    async fn what_the_machine_itself_resolves_is_vetted_too() {
        let resolve = |reach| {
            let resolver = VettingResolver::new(Arc::new(SystemResolver), reach);
            resolver.resolve("localhost".parse().unwrap())
        };
        assert!(resolve(Reach::Public).await.err().is_some_and(|error| error.is::<Refused>()));
        assert!(resolve(Reach::Private).await.unwrap().all(|address| address.ip().is_loopback()));
    }

    #[tokio::test]
    async fn every_resolution_is_vetted_and_not_only_the_first() {
        let inner = Arc::new(Rebinding(AtomicUsize::new(0)));
        let resolver = VettingResolver::new(inner, Reach::Public);
        let found = resolver.resolve("example.com".parse().unwrap()).await.unwrap();
        assert_eq!(found.map(|address| address.ip().to_string()).collect::<Vec<_>>(), ["8.8.8.8"]);
        assert!(resolver.resolve("example.com".parse().unwrap()).await.is_err());
    }

    struct Fixed(&'static [&'static str]);

    impl Resolve for Fixed {
        fn resolve(&self, _: Name) -> Resolving {
            let found: Vec<SocketAddr> =
                self.0.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect();
            Box::pin(async move { Ok(Box::new(found.into_iter()) as Addrs) })
        }
    }

    #[tokio::test]
    async fn a_name_with_any_refused_address_is_refused_as_a_whole() {
        for (found, called) in [
            (&["8.8.8.8", "1.1.1.1"][..], true),
            (&["8.8.8.8", "10.0.0.1"], false),
            (&["127.0.0.1", "8.8.8.8"], false),
            (&["8.8.8.8", "::ffff:169.254.169.254"], false),
        ] {
            let resolver = VettingResolver::new(Arc::new(Fixed(found)), Reach::Public);
            let resolved = resolver.resolve("example.com".parse().unwrap()).await;
            assert_eq!(resolved.is_ok(), called, "{found:?}");
            if let Err(error) = resolved {
                assert!(error.is::<Refused>(), "{error}");
            }
        }
    }
}
