//! Values under HKEY_LOCAL_MACHINE. Numbers are given as decimal text; nothing but strings is ever written.

use windows_registry::{Key, LOCAL_MACHINE, Type};

use super::error::{failed, is_missing};
use crate::platform::Result;

/// A string or number; `Ok(None)`: no such key or value.
pub(super) fn string(key: &str, value: &str) -> Result<Option<String>> {
    let what = || format!("registry value HKLM\\{key}\\{value}");
    let key = match LOCAL_MACHINE.open(key) {
        Ok(key) => key,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(failed(what(), &error)),
    };
    match read(&key, value) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed(what(), &error)),
    }
}

fn read(key: &Key, value: &str) -> windows_registry::Result<String> {
    match key.get_type(value)? {
        Type::U32 => key.get_u32(value).map(|number| number.to_string()),
        Type::U64 => key.get_u64(value).map(|number| number.to_string()),
        Type::String | Type::ExpandString | Type::MultiString | Type::Bytes | Type::Other(_) => key.get_string(value),
    }
}

/// Writes (or with `None` deletes) a string value; deleting what is not there is done.
pub(super) fn set_string(key: &str, value: &str, data: Option<&str>) -> Result<()> {
    let what = || format!("registry value HKLM\\{key}\\{value}");
    let done = match data {
        Some(data) => LOCAL_MACHINE.create(key).and_then(|key| key.set_string(value, data)),
        None => LOCAL_MACHINE.options().read().write().open(key).and_then(|key| key.remove_value(value)),
    };
    match done {
        Ok(()) => Ok(()),
        Err(error) if data.is_none() && is_missing(&error) => Ok(()),
        Err(error) => Err(failed(what(), &error)),
    }
}

/// A number, whether it was written as one or as digits; nothing that cannot be read.
pub(super) fn number(key: &str, value: &str) -> Option<u32> {
    string(key, value).ok().flatten()?.trim().parse().ok()
}

/// A text that is there and not empty.
pub(super) fn text(key: &str, value: &str) -> Option<String> {
    string(key, value).ok().flatten().map(|it| it.trim().to_owned()).filter(|it| !it.is_empty())
}

pub(super) fn key_exists(key: &str) -> bool {
    LOCAL_MACHINE.open(key).is_ok()
}

/// Whether the key has a key below it.
pub(super) fn has_keys(key: &str) -> bool {
    LOCAL_MACHINE.open(key).is_ok_and(|key| key.keys().is_ok_and(|mut keys| keys.next().is_some()))
}

/// Whether the key has a value.
pub(super) fn has_values(key: &str) -> bool {
    LOCAL_MACHINE.open(key).is_ok_and(|key| key.values().is_ok_and(|mut values| values.next().is_some()))
}
