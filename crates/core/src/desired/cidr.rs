//! Networks: parsed once, compared as networks.

use std::fmt;
use std::net::IpAddr;

/// An IPv4 or IPv6 network without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not of the form `address/prefix`.
    #[error("{0:?} is not a network: write it as address/prefix, such as 203.0.113.0/24 or 2001:db8::/32")]
    Form(String),
    /// Bits after the prefix are set.
    #[error("{given} has host bits set: the network is {network}")]
    HostBits {
        /// As given.
        given: String,
        /// What was probably meant.
        network: Cidr,
    },
}

impl Cidr {
    /// Reads `address/prefix`, strictly.
    ///
    /// # Errors
    /// When it is not a network; the message names the right one where host bits are set.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let network = Self::lenient(text).ok_or_else(|| CidrError::Form(text.into()))?;
        let given = text
            .split('/')
            .next()
            .and_then(|address| address.parse::<IpAddr>().ok());
        if given == Some(network.network) {
            Ok(network)
        } else {
            Err(CidrError::HostBits {
                given: text.into(),
                network,
            })
        }
    }

    /// Reads `address/prefix` and clears host bits, as EC2 does.
    #[must_use]
    pub fn lenient(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= width).then(|| Self {
            network: masked(address, prefix),
            prefix,
        })
    }

    /// Whether all addresses of `other` lie in here.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.network.is_ipv4() == other.network.is_ipv4()
            && self.prefix <= other.prefix
            && masked(other.network, self.prefix) == self.network
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cidr;

    #[test]
    fn networks_are_read_strictly_and_shown_canonically() {
        for good in ["0.0.0.0/0", "10.1.0.0/16", "203.0.113.7/32", "::/0", "2001:db8::/32"] {
            assert_eq!(Cidr::parse(good).map(|cidr| cidr.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/-1",
            "a/8",
        ] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Cidr::parse("10.1.2.3/16").map_err(|error| error.to_string()),
            Err("10.1.2.3/16 has host bits set: the network is 10.1.0.0/16".to_owned())
        );
        assert_eq!(
            Cidr::lenient("2001:DB8:0::1/32").map(|cidr| cidr.to_string()),
            Some("2001:db8::/32".to_owned())
        );
    }

    #[test]
    fn a_network_contains_its_parts_only() {
        let cases = [
            ("0.0.0.0/0", "10.0.0.0/8", true),
            ("10.0.0.0/8", "10.200.0.0/16", true),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.0.0.0/16", "10.0.0.0/8", false),
            ("10.0.0.0/8", "11.0.0.0/16", false),
            ("::/0", "10.0.0.0/8", false),
            ("::/0", "2001:db8::/32", true),
        ];
        for (outer, inner, expected) in cases {
            let (outer, inner) = (Cidr::parse(outer).unwrap(), Cidr::parse(inner).unwrap());
            assert_eq!(outer.contains(&inner), expected, "{outer} {inner}");
        }
    }
}
