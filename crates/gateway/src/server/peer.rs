//! Who is at the other end: the real address behind trusted proxies, and whether a page may connect.

use std::net::IpAddr;

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    base: IpAddr,
    bits: u8,
}

impl Network {
    /// From `10.0.0.0/8`, or one address.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text
            .split_once('/')
            .map_or((text, None), |(address, bits)| (address, Some(bits)));
        let base: IpAddr = address.parse().ok()?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(width), |bits| bits.parse().ok())?;
        (bits <= width).then_some(Self { base, bits })
    }

    fn contains(self, address: IpAddr) -> bool {
        let prefix = |value: u128, width: u8| value.checked_shr(u32::from(width - self.bits)).unwrap_or(0);
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                prefix(u128::from(base.to_bits()), 32) == prefix(u128::from(address.to_bits()), 32)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => prefix(base.to_bits(), 128) == prefix(address.to_bits(), 128),
            _ => false,
        }
    }
}

/// The headers that say something about the other end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Headers<'a> {
    /// `Host`.
    pub(crate) host: Option<&'a str>,
    /// `Origin`: a browser sends it, other clients mostly do not.
    pub(crate) origin: Option<&'a str>,
    /// All values of `X-Forwarded-For`, joined.
    pub(crate) forwarded_for: Option<&'a str>,
    /// Any other header that only a proxy adds.
    pub(crate) other_forwarded: bool,
}

/// The other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its address, as far as it can be believed.
    pub(crate) address: IpAddr,
    /// On this machine, with no proxy between.
    pub(crate) direct_loopback: bool,
    /// What the page that it shows comes from.
    pub(crate) origin: Origin,
}

/// Where a page comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// No page: not a browser.
    None,
    /// The gateway's own host, or one that the config allows.
    Allowed,
    /// A page of this machine that talks to the gateway directly: allowed, but it gets nothing by token alone.
    Local,
    /// A page from elsewhere.
    Foreign,
}

/// A forwarding header from one who is not a trusted proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UntrustedProxy;

/// What the gateway believes about proxies and pages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    /// Proxies.
    pub(crate) proxies: Vec<Network>,
    /// Origins beside the gateway's own.
    pub(crate) origins: Vec<String>,
}

impl Trust {
    /// Judges the other end of a connection from `socket`.
    ///
    /// # Errors
    /// [`UntrustedProxy`].
    pub(crate) fn judge(&self, socket: IpAddr, headers: Headers<'_>) -> Result<Peer, UntrustedProxy> {
        let socket = socket.to_canonical();
        let forwarded = headers.forwarded_for.is_some() || headers.other_forwarded;
        if forwarded && !self.is_proxy(socket) {
            return Err(UntrustedProxy);
        }
        let address = headers.forwarded_for.map_or(socket, |list| self.client(socket, list));
        let direct_loopback = !forwarded && socket.is_loopback();
        Ok(Peer {
            address,
            direct_loopback,
            origin: self.origin(headers, direct_loopback),
        })
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(address))
    }

    /// The last address in the list that is not a proxy of ours: what is left of it, the client may have made up.
    fn client(&self, socket: IpAddr, list: &str) -> IpAddr {
        let mut nearest = socket;
        for entry in list.rsplit(',') {
            let Ok(address) = entry.trim().parse::<IpAddr>() else {
                break;
            };
            nearest = address.to_canonical();
            if !self.is_proxy(nearest) {
                break;
            }
        }
        nearest
    }

    fn origin(&self, headers: Headers<'_>, direct_loopback: bool) -> Origin {
        let Some(origin) = headers.origin else {
            return Origin::None;
        };
        let host = authority(origin);
        let own = host
            .zip(headers.host)
            .is_some_and(|(page, own)| page.eq_ignore_ascii_case(own));
        if own || self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
            return Origin::Allowed;
        }
        if direct_loopback && host.is_some_and(is_local_host) {
            Origin::Local
        } else {
            Origin::Foreign
        }
    }
}

/// Host and port of an origin as browsers write it: a scheme, `://`, a host, perhaps a port, and nothing else.
fn authority(origin: &str) -> Option<&str> {
    let (scheme, host) = origin.split_once("://")?;
    let web = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    (web && !host.is_empty() && host.chars().all(plain)).then_some(host)
}

fn is_local_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or((rest, "?")),
        None => host.find(':').map_or((host, ""), |colon| host.split_at(colon)),
    };
    let plain = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    plain
        && (name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(proxies: &[&str]) -> Trust {
        Trust {
            proxies: proxies.iter().filter_map(|text| Network::parse(text)).collect(),
            origins: vec!["https://koi.example".to_owned()],
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn forwarded(list: &str) -> Headers<'_> {
        Headers {
            forwarded_for: Some(list),
            ..Headers::default()
        }
    }

    #[test]
    fn networks_contain_what_they_say() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("::1", "::1", true),
            ("::/0", "fe80::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "1.2.3.4", false),
        ];
        for (network, inside, expected) in table {
            assert_eq!(
                Network::parse(network).unwrap().contains(address(inside)),
                expected,
                "{network} {inside}"
            );
        }
        for bad in ["10.0.0.0/33", "::/129", "x", "1.2.3.4/x"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_no_proxy_of_ours_has() {
        let trust = trust(&["127.0.0.1", "::1", "10.0.0.0/8"]);
        let client = |list| trust.judge(address("127.0.0.1"), forwarded(list)).unwrap().address;
        assert_eq!(client("203.0.113.9"), address("203.0.113.9"));
        assert_eq!(client("6.6.6.6, 203.0.113.9, 10.1.1.1"), address("203.0.113.9"));
        assert_eq!(client("garbage"), address("127.0.0.1"));
        assert_eq!(client("garbage, 10.1.1.1"), address("10.1.1.1"));
        assert_eq!(client(""), address("127.0.0.1"));
    }

    #[test]
    fn forwarding_headers_need_a_trusted_proxy() {
        let none = trust(&[]);
        assert_eq!(
            none.judge(address("127.0.0.1"), forwarded("1.2.3.4")),
            Err(UntrustedProxy)
        );
        let other = Headers {
            other_forwarded: true,
            ..Headers::default()
        };
        assert_eq!(none.judge(address("127.0.0.1"), other), Err(UntrustedProxy));
        let direct = none.judge(address("::1"), Headers::default()).unwrap();
        assert_eq!(
            direct,
            Peer {
                address: address("::1"),
                direct_loopback: true,
                origin: Origin::None
            }
        );
        let behind = trust(&["127.0.0.1"])
            .judge(address("127.0.0.1"), forwarded("127.0.0.1"))
            .unwrap();
        assert!(!behind.direct_loopback, "behind a proxy nobody is local");
    }

    #[test]
    fn pages_are_judged_by_host() {
        let trust = trust(&["127.0.0.1"]);
        let table = [
            ("https://10.0.0.5", "10.0.0.5", false, Origin::Allowed),
            ("https://koi.example", "10.0.0.5", false, Origin::Allowed),
            ("https://evil.example", "10.0.0.5", false, Origin::Foreign),
            ("http://localhost:3000", "127.0.0.1:18789", true, Origin::Local),
            ("http://[::1]:3000", "127.0.0.1:18789", true, Origin::Local),
            ("http://localhost:3000", "10.0.0.5", false, Origin::Foreign),
            ("null", "10.0.0.5", true, Origin::Foreign),
            ("http://localhost:3000@evil", "127.0.0.1:18789", true, Origin::Foreign),
            (
                "http://localhost:3000@evil",
                "localhost:3000@evil",
                true,
                Origin::Foreign,
            ),
            ("http://localhost:x", "127.0.0.1:18789", true, Origin::Foreign),
            ("http://localhost.evil:80", "127.0.0.1:18789", true, Origin::Foreign),
            ("http://[::1]evil:80", "127.0.0.1:18789", true, Origin::Foreign),
            ("http://localhost/x", "127.0.0.1:18789", true, Origin::Foreign),
            ("file://localhost", "127.0.0.1:18789", true, Origin::Foreign),
            ("http://127.0.0.9", "127.0.0.1:18789", true, Origin::Local),
        ];
        for (origin, host, direct, expected) in table {
            let forwarded_for = (!direct).then_some("9.9.9.9");
            let headers = Headers {
                host: Some(host),
                origin: Some(origin),
                forwarded_for,
                other_forwarded: false,
            };
            assert_eq!(
                trust.judge(address("127.0.0.1"), headers).unwrap().origin,
                expected,
                "{origin} {host}"
            );
        }
    }
}
