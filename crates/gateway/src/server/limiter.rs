//! Failed authentication: who fails too often is locked out for a while; on this machine he is only slowed down.
//!
//! Strangers are counted by their address, a device that the gateway knows and that proved its key by itself: whoever guesses behind the
//! same address does not lock it out, and a device with an outdated token locks out nobody else.

use std::collections::HashMap;
use std::net::IpAddr;

use koi_wire::config::RateLimit;

/// Subjects that are remembered at most. Beyond that the oldest is forgotten.
const MAX_SUBJECTS: usize = 10_000;

/// First delay on loopback; it doubles up to [`MAX_DELAY_MS`].
const FIRST_DELAY_MS: u64 = 250;
const MAX_DELAY_MS: u64 = 5_000;

/// Limits, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    max_attempts: u32,
    window_ms: i64,
    lockout_ms: i64,
    exempt_loopback: bool,
}

impl Limits {
    /// The config's values, else the defaults.
    pub(crate) fn from_config(config: Option<&RateLimit>) -> Self {
        let millis =
            |value: Option<u64>, default: i64| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(default);
        Self {
            max_attempts: config.and_then(|config| config.max_attempts).unwrap_or(10),
            window_ms: millis(config.and_then(|config| config.window_ms), 60_000),
            lockout_ms: millis(config.and_then(|config| config.lockout_ms), 300_000),
            exempt_loopback: config.and_then(|config| config.exempt_loopback).unwrap_or(true),
        }
    }
}

/// Whose failures are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// Whoever comes from there.
    Address(IpAddr),
    /// The device of this id, which proved itself.
    Device(String),
}

#[derive(Clone, Copy, Debug)]
struct Record {
    window_start: i64,
    failures: u32,
    locked_until: i64,
}

/// What has failed lately.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    records: HashMap<Subject, Record>,
}

impl Limiter {
    /// Nothing has failed yet.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            records: HashMap::new(),
        }
    }

    /// Milliseconds for which this subject is still locked out.
    pub(crate) fn locked_for(&self, subject: &Subject, now: i64) -> Option<u64> {
        let left = self.records.get(subject)?.locked_until - now;
        u64::try_from(left).ok().filter(|left| *left > 0)
    }

    /// Notes a failure that came from this address; gives the milliseconds after which it may be answered.
    pub(crate) fn failed(&mut self, subject: Subject, address: IpAddr, now: i64) -> u64 {
        self.make_room(&subject);
        let limits = self.limits;
        let record = self.records.entry(subject).or_insert(Record {
            window_start: now,
            failures: 0,
            locked_until: 0,
        });
        if now - record.window_start >= limits.window_ms {
            *record = Record {
                window_start: now,
                failures: 0,
                locked_until: 0,
            };
        }
        record.failures = record.failures.saturating_add(1);
        if address.is_loopback() && limits.exempt_loopback {
            return FIRST_DELAY_MS
                .saturating_mul(1 << (record.failures - 1).min(10))
                .min(MAX_DELAY_MS);
        }
        if record.failures >= limits.max_attempts {
            record.locked_until = now + limits.lockout_ms;
        }
        0
    }

    /// Notes a success.
    pub(crate) fn succeeded(&mut self, subject: &Subject) {
        self.records.remove(subject);
    }

    fn make_room(&mut self, subject: &Subject) {
        if self.records.len() < MAX_SUBJECTS || self.records.contains_key(subject) {
            return;
        }
        let oldest = self
            .records
            .iter()
            .min_by_key(|(_, record)| record.locked_until.max(record.window_start));
        if let Some(oldest) = oldest.map(|(subject, _)| subject.clone()) {
            self.records.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));
    const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn limiter() -> Limiter {
        Limiter::new(Limits::from_config(None))
    }

    fn at(address: IpAddr) -> Subject {
        Subject::Address(address)
    }

    #[test]
    fn ten_failures_in_a_minute_lock_out_for_five() {
        let mut limiter = limiter();
        for attempt in 0..10 {
            assert_eq!(limiter.locked_for(&at(FAR), attempt), None);
            assert_eq!(limiter.failed(at(FAR), FAR, attempt), 0);
        }
        assert_eq!(limiter.locked_for(&at(FAR), 10), Some(299_999));
        assert_eq!(limiter.locked_for(&at(FAR), 300_009), None);
    }

    #[test]
    fn a_device_and_its_address_do_not_answer_for_each_other() {
        let mut limiter = limiter();
        let device = Subject::Device("d".into());
        for attempt in 0..10 {
            limiter.failed(device.clone(), FAR, attempt);
        }
        assert!(limiter.locked_for(&device, 10).is_some());
        assert_eq!(limiter.locked_for(&at(FAR), 10), None);
        limiter.succeeded(&device);
        assert_eq!(limiter.locked_for(&device, 10), None);
    }

    #[test]
    fn slow_failures_do_not() {
        let mut limiter = limiter();
        for attempt in 0..100 {
            limiter.failed(at(FAR), FAR, attempt * 7_000);
            assert_eq!(limiter.locked_for(&at(FAR), attempt * 7_000), None, "{attempt}");
        }
    }

    #[test]
    fn loopback_is_slowed_down_and_a_success_forgives() {
        let mut limiter = limiter();
        let delays: Vec<u64> = (0..7).map(|_| limiter.failed(at(NEAR), NEAR, 0)).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(limiter.locked_for(&at(NEAR), 0), None);
        limiter.succeeded(&at(NEAR));
        assert_eq!(limiter.failed(at(NEAR), NEAR, 0), 250);
    }

    #[test]
    fn memory_is_bounded() {
        let mut limiter = limiter();
        for n in 0..20_000_u32 {
            let address = IpAddr::from(n.to_be_bytes());
            limiter.failed(at(address), address, i64::from(n));
        }
        assert_eq!(limiter.records.len(), MAX_SUBJECTS);
    }
}
