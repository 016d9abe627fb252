use super::*;

fn client() -> ClientInfo {
    ClientInfo {
        id: "cli".to_owned(),
        ..ClientInfo::default()
    }
}

fn pairing(id: &str, scopes: &[Scope]) -> Pairing {
    Pairing {
        device_id: id.to_owned(),
        public_key: "k".to_owned(),
        client: client(),
        role: Role::Operator,
        scopes: scopes.to_vec(),
        voucher: Voucher::Token(Mark("1".to_owned())),
    }
}

fn wish(id: &str, ts: i64) -> Wish {
    Wish {
        request_id: id.to_owned(),
        device_id: "d".to_owned(),
        public_key: "k".to_owned(),
        client: client(),
        role: Role::Operator,
        scopes: Vec::new(),
        commands: Vec::new(),
        address: String::new(),
        repair: false,
        ts,
    }
}

#[test]
fn a_token_is_issued_once_a_day_and_the_last_four_count() {
    let mut devices = Devices::default();
    let token = |n: i64| Redacted::new(format!("token-{n}"));
    assert!(devices.pair(pairing("d", &[Scope::Read]), Some(&token(0)), 0));
    assert!(!devices.pair(pairing("d", &[Scope::Read]), Some(&token(1)), 1));
    assert!(!devices.would_change(&pairing("d", &[Scope::Read]), 2));
    assert!(devices.would_change(&pairing("d", &[Scope::Admin]), 2));
    for day in 1..=4 {
        assert!(devices.pair(
            pairing("d", &[Scope::Admin]),
            Some(&token(day)),
            day * (RENEW_AFTER_MS + 1)
        ));
    }
    let membership = devices.membership("d", Role::Operator).unwrap();
    assert_eq!(membership.scopes, [Scope::Read, Scope::Admin]);
    let counting: Vec<bool> = (0..=4).map(|n| membership.has_token(&hash(&token(n)))).collect();
    assert_eq!(counting, [false, true, true, true, true]);
    assert!(membership.stands(&[Mark("1".to_owned())]) && !membership.stands(&[Mark("2".to_owned())]));
}

#[test]
fn tokens_are_replaced_and_taken_away() {
    let mut devices = Devices::default();
    let (old, new) = (Redacted::new("old"), Redacted::new("new"));
    devices.pair(pairing("d", &[Scope::Read, Scope::Write]), Some(&old), 0);
    let rotated = devices
        .replace_tokens("d", "operator", Some(&[Scope::Read]), Some(&new), 5)
        .unwrap();
    assert!(rotated.has_token(&hash(&new)) && !rotated.has_token(&hash(&old)));
    assert_eq!(
        (rotated.scopes.as_slice(), rotated.rotated_at_ms),
        ([Scope::Read].as_slice(), Some(5))
    );
    assert_eq!(
        devices.replace_tokens("d", "node", None, None, 6).unwrap_err(),
        Unknown::Role
    );
    assert!(
        devices
            .replace_tokens("d", "operator", None, None, 6)
            .unwrap()
            .tokens
            .is_empty()
    );
    let text = serde_json::to_string(&devices).unwrap();
    assert!(!text.contains("new\"") && serde_json::from_str::<Devices>(&text).unwrap() == devices);
    assert_eq!(devices.remove("d", Some(Role::Node)).unwrap_err(), Unknown::Device);
    devices.remove("d", Some(Role::Operator)).unwrap();
    assert_eq!(devices.get("d"), None);
}

#[test]
fn wishes_are_few_and_brief() {
    let mut devices = Devices::default();
    assert!(devices.wish(wish("a", 0)));
    assert!(!devices.wish(wish("a", 10)));
    assert_eq!(devices.wishes(WISH_LIFE_MS + 9).len(), 1);
    assert_eq!(devices.take_wish("a", WISH_LIFE_MS + 10), Err(Unknown::Request));
    for n in 0..1000 {
        devices.wish(wish(&n.to_string(), n));
    }
    assert_eq!(devices.wishes(1000).len(), MAX_WISHES);
    assert_eq!(devices.take_wish("999", 1000).unwrap().ts, 999);
    assert_eq!(devices.take_wish("999", 1000), Err(Unknown::Request));
}

#[test]
fn memory_is_bounded_and_what_a_person_approved_stays() {
    let mut devices = Devices::default();
    let approved = Pairing {
        voucher: Voucher::Person,
        ..pairing("approved", &[])
    };
    devices.pair(approved, None, 0);
    for n in 1..2000 {
        devices.pair(pairing(&n.to_string(), &[]), None, n);
    }
    assert_eq!(devices.all().count(), MAX_DEVICES);
    assert!(devices.get("approved").is_some() && devices.get("1999").is_some());
}
