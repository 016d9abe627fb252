//! Held still for a snapshot, and started anew.

use serde_json::json;

use super::harness::Gateway;

#[tokio::test]
async fn the_gateway_is_held_still_and_goes_on() {
    let gateway = Gateway::start();
    let (mut one, mut two) = (gateway.client().await, gateway.client().await);
    let held = one.call("gateway.suspend.prepare", json!({"requestId": "r1"})).await["payload"].clone();
    assert_eq!((&held["status"], &held["activeCount"]), (&json!("ready"), &json!(0)));
    assert_eq!(
        two.event("gateway.suspension").await["payload"],
        json!({"phase": "prepared"})
    );
    let id = &held["suspensionId"];
    let other = two.call("gateway.suspend.prepare", json!({"requestId": "r2"})).await;
    assert_eq!(other["payload"]["status"], "busy");
    let again = one.call("gateway.suspend.prepare", json!({"requestId": "r1"})).await;
    assert_eq!(&again["payload"]["suspensionId"], id);
    let status = two.call("gateway.suspend.status", json!({"suspensionId": id})).await;
    assert_eq!(status["payload"]["status"], "ready");
    let on = two.call("gateway.suspend.resume", json!({"suspensionId": id})).await;
    assert_eq!(on["payload"], json!({"ok": true, "status": "running", "resumed": true}));
    let twice = two.call("gateway.suspend.resume", json!({"suspensionId": id})).await;
    assert_eq!(twice["payload"]["resumed"], false);
}

#[tokio::test]
async fn a_restart_is_asked_for_and_announced() {
    let mut gateway = Gateway::start();
    let mut client = gateway.client().await;
    let asked = client.call("gateway.restart.request", json!({"reason": "test"})).await;
    assert_eq!(asked["payload"]["status"], "scheduled");
    let told = client.event("shutdown").await;
    assert_eq!(
        told["payload"],
        json!({"reason": "gateway restarting", "restartExpectedMs": 2500})
    );
    assert_eq!(client.end().await.code, 1012);
    assert_eq!(gateway.wait().code(), Some(0));
}
