use serde_json::json;

use super::*;

#[test]
fn frames_look_as_on_the_wire() {
    let request = Frame::Req(Request {
        id: "1".to_owned(),
        method: "health".to_owned(),
        params: Value::Null,
    });
    assert_eq!(request.to_text(), r#"{"type":"req","id":"1","method":"health"}"#);
    let response = Frame::Res(Response::ok("1", json!({})));
    assert_eq!(response.to_text(), r#"{"type":"res","id":"1","ok":true,"payload":{}}"#);
    let event = Frame::Event(Event {
        event: "tick".to_owned(),
        payload: Some(json!({"ts": 1})),
        seq: Some(1),
        state_version: None,
    });
    assert_eq!(
        event.to_text(),
        r#"{"type":"event","event":"tick","payload":{"ts":1},"seq":1}"#
    );
    for frame in [request, response, event] {
        assert_eq!(Frame::from_text(&frame.to_text()).unwrap(), frame);
    }
}

#[test]
fn absent_and_null_parameters_are_the_same() {
    let null = Frame::from_text(r#"{"type":"req","id":"1","method":"m","params":null}"#).unwrap();
    let absent = Frame::from_text(r#"{"type":"req","id":"1","method":"m"}"#).unwrap();
    assert_eq!(null, absent);
}

#[test]
fn the_detail_code_is_found() {
    let error = ErrorShape::new("INVALID_REQUEST", "no").with_details(json!({"code": "AUTH_TOKEN_MISMATCH"}));
    assert_eq!(error.detail_code(), Some("AUTH_TOKEN_MISMATCH"));
}

#[test]
fn connect_parameters_are_closed() {
    let good = json!({
        "minProtocol": 3, "maxProtocol": 4, "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
        "auth": {"token": "t"}, "scopes": ["operator.read"]
    });
    let params: ConnectParams = serde_json::from_value(good.clone()).unwrap();
    assert_eq!(serde_json::to_value(&params).unwrap(), good);
    assert!(!format!("{params:?}").contains("\"t\""), "the token is not printed");
    let mut bad = good;
    bad["foo"] = json!(1);
    assert!(serde_json::from_value::<ConnectParams>(bad).is_err());
}
