//! Arguments of tools, as models give them.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads arguments; the error names what is wrong.
pub(crate) fn read<T: DeserializeOwned>(arguments: Value) -> Result<T, String> {
    serde_json::from_value(arguments).map_err(|fault| format!("The arguments do not fit: {fault}"))
}
