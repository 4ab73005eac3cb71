//! A request's body, read strictly: an object, each of its keys known and there once.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer::Fault;
use crate::config::words::nearest;

/// What a body holds.
pub(super) trait Shape: DeserializeOwned {
    /// The keys of the object.
    const KEYS: &'static [&'static str];
}

/// Reads a body.
///
/// # Errors
/// A [`Fault`] that names the place of what is wrong, or the nearest key to an unknown one.
pub(super) fn read<T: Shape>(body: &[u8]) -> Result<T, Fault> {
    if body.is_empty() {
        return Err(Fault::new(format!("there is no body: send an object with {}", list(T::KEYS))));
    }
    let bad = |error: serde_json::Error| Fault::new(format!("the body can't be used: {error}"));
    let document: Value = serde_json::from_slice(body).map_err(bad)?;
    // serde would also take an array, with the values in their order.
    let Some(object) = document.as_object() else {
        return Err(Fault::new(format!("the body is no object: send one with {}", list(T::KEYS))));
    };
    if let Some(key) = object.keys().find(|key| !T::KEYS.contains(&key.as_str())) {
        return Err(Fault::new(format!(
            "unknown field {key:?}: did you mean {:?}? (valid: {})",
            nearest(key, T::KEYS),
            list(T::KEYS)
        )));
    }
    // From the text again: the document has lost what was there twice.
    serde_json::from_slice(body).map_err(bad)
}

/// "a", "b".
pub(super) fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Amount {
        amount_mib: u64,
        #[serde(default)]
        quiet: bool,
    }

    impl Shape for Amount {
        const KEYS: &'static [&'static str] = &["amount_mib", "quiet"];
    }

    fn fault(body: &str) -> String {
        let fault = read::<Amount>(body.as_bytes()).unwrap_err();
        serde_json::to_value(&fault).unwrap()["fault_message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn an_object_with_known_keys_is_read() {
        assert_eq!(read::<Amount>(b"{\"amount_mib\": 7}").unwrap(), Amount { amount_mib: 7, quiet: false });
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest() {
        let message = fault("{\"amout_mib\": 7}");
        assert!(message.contains("unknown field \"amout_mib\": did you mean \"amount_mib\"?"), "{message}");
        assert!(message.contains("\"quiet\""), "{message}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (body, expected) in [
            ("", "there is no body: send an object with \"amount_mib\""),
            ("[7]", "no object"),
            ("7", "no object"),
            ("{", "line 1 column 1"),
            ("{\"amount_mib\": 7} x", "trailing characters"),
            ("{\"amount_mib\": 7, \"amount_mib\": 8}", "duplicate field `amount_mib`"),
            ("{\"amount_mib\": -1}", "invalid value"),
            ("{\"amount_mib\": 1.5}", "invalid type"),
            ("{\"amount_mib\": \"7\"}", "invalid type"),
            ("{\"amount_mib\": 18446744073709551616}", "invalid"),
            ("{}", "missing field `amount_mib`"),
            ("\u{feff}{}", "expected value"),
        ] {
            let message = fault(body);
            assert!(message.contains(expected), "{body}: {message}");
        }
        assert!(read::<Amount>(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn a_document_that_never_closes_costs_an_error_and_no_stack() {
        let message = fault(&"[".repeat(60_000));
        assert!(message.contains("recursion limit"), "{message}");
    }
}
