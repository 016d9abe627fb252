//! The finalizer, put on and taken off by JSON patches that fail when somebody else changed the list meanwhile.

use koi_core::names::FINALIZER;
use kube::api::Patch;
use serde_json::{Value, json};

/// Puts our finalizer on.
pub(super) fn add(present: Option<&[String]>) -> Patch<Value> {
    let operations = match present {
        None | Some([]) => json!([
            { "op": "test", "path": "/metadata/finalizers", "value": null },
            { "op": "add", "path": "/metadata/finalizers", "value": [FINALIZER] },
        ]),
        Some(there) => json!([
            { "op": "test", "path": "/metadata/finalizers", "value": there },
            { "op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER },
        ]),
    };
    patch(operations)
}

/// Takes our finalizer off; `None` when it is not on.
pub(super) fn remove(present: &[String]) -> Option<Patch<Value>> {
    let position = present.iter().position(|finalizer| finalizer == FINALIZER)?;
    let path = format!("/metadata/finalizers/{position}");
    Some(patch(json!([
        { "op": "test", "path": path, "value": FINALIZER },
        { "op": "remove", "path": path },
    ])))
}

/// The operations above are a valid patch; an empty one would change nothing.
fn patch(operations: Value) -> Patch<Value> {
    Patch::Json(serde_json::from_value(operations).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(patch: &Patch<Value>) -> Value {
        match patch {
            Patch::Json(patch) => serde_json::to_value(patch).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_joins_those_that_are_there() {
        let alone = operations(&add(None));
        assert_eq!(
            alone[1],
            json!({ "op": "add", "path": "/metadata/finalizers", "value": [FINALIZER] })
        );
        let joined = operations(&add(Some(&["other/one".to_owned()])));
        assert_eq!(
            joined[0],
            json!({ "op": "test", "path": "/metadata/finalizers", "value": ["other/one"] })
        );
        assert_eq!(
            joined[1],
            json!({ "op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER })
        );
    }

    #[test]
    fn only_ours_is_taken_off() {
        let present = ["other/one".to_owned(), FINALIZER.to_owned()];
        let taken = operations(&remove(&present).unwrap());
        assert_eq!(taken[1], json!({ "op": "remove", "path": "/metadata/finalizers/1" }));
        assert!(remove(&present[..1]).is_none());
    }
}
