//! Results for programs.

use serde_json::{Map, Value, json};
use towline::Message;

use super::text::hex;

/// The version of every JSON document of this command. It changes when a key changes its meaning or goes away.
pub(crate) const SCHEMA_VERSION: u64 = 1;

/// A message as one object; data that is no UTF-8 comes as `data_hex` in place of `data`.
pub(crate) fn message(message: &Message, connection: Option<u64>) -> Value {
    let mut object = Map::new();
    if let Some(connection) = connection {
        object.insert("connection".into(), connection.into());
    }
    object.insert("id".into(), json!(message.id.map(|id| id.0)));
    object.insert("reply_to".into(), json!(message.reply_to.map(|id| id.0)));
    object.insert("lane".into(), message.lane.index().into());
    object.insert("size".into(), message.data.len().into());
    match std::str::from_utf8(&message.data) {
        Ok(text) => object.insert("data".into(), text.into()),
        Err(_) => object.insert("data_hex".into(), hex(&message.data).into()),
    };
    Value::Object(object)
}
