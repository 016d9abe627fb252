//! What we must know of a certificate that TLS libraries do not tell: when it ends, and whether a key is its own.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_pki_types::pem::PemObject as _;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Whether the private key (PEM) belongs to the certificate (DER).
pub(super) fn matches_key(certificate: &[u8], key_pem: &str) -> Result<(), String> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|_| "data.tls.key holds no PEM private key".to_owned())?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let chain = vec![CertificateDer::from(certificate.to_vec())];
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("data.tls.key does not belong to data.tls.crt".to_owned()),
        Err(error) => Err(format!("data.tls.key cannot be used: {error}")),
    }
}

/// A certificate's validity, from and until: `Certificate { tbs { [version], serial, algorithm, issuer, validity { from, until } ..`.
pub(super) fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (tbs, _) = expect(certificate, SEQUENCE)?;
    let rest = expect(tbs, VERSION).map_or(tbs, |(_, rest)| rest);
    let (_serial, rest) = take(rest).map(|(_, content, rest)| (content, rest))?;
    let (_algorithm, rest) = expect(rest, SEQUENCE)?;
    let (_issuer, rest) = expect(rest, SEQUENCE)?;
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (from_tag, from, rest) = take(validity)?;
    let (until_tag, until, _) = take(rest)?;
    let read = |tag, text| time(tag, std::str::from_utf8(text).ok()?);
    Some((read(from_tag, from)?, read(until_tag, until)?))
}

/// The content of the element that must come next, and what follows it.
fn expect(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = take(bytes)?;
    (tag == wanted).then_some((content, rest))
}

/// Tag, content and rest of one DER element.
fn take(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, bytes) = bytes.split_first()?;
    let (length, bytes) = match first {
        0..=0x7f => (usize::from(first), bytes),
        0x81..=0x84 => {
            let (digits, bytes) = bytes.split_at_checked(usize::from(first & 0x7f))?;
            (
                digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)),
                bytes,
            )
        }
        _ => return None,
    };
    let (content, rest) = bytes.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` (years 1950 to 2049) or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &str) -> Option<Timestamp> {
    let text = text.strip_suffix('Z')?;
    let full = match tag {
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    if full.len() != 14 || !full.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let moment = DateTime::strptime("%Y%m%d%H%M%S", full).ok()?;
    moment.to_zoned(TimeZone::UTC).ok().map(|moment| moment.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_time_are_read() {
        let read = |tag, text| time(tag, text).map(|moment| moment.to_string());
        assert_eq!(read(UTC_TIME, "271121000000Z").as_deref(), Some("2027-11-21T00:00:00Z"));
        assert_eq!(read(UTC_TIME, "991231235959Z").as_deref(), Some("1999-12-31T23:59:59Z"));
        assert_eq!(
            read(GENERALIZED_TIME, "20990102030405Z").as_deref(),
            Some("2099-01-02T03:04:05Z")
        );
        assert_eq!(
            (read(UTC_TIME, "27112100000Z"), read(0x02, "271121000000Z")),
            (None, None)
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = validity(&bytes);
        }
    }
}
