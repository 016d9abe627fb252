//! What the operator and the gateway share.
