//! Comma-separated words, `key=value`, and the nearest valid key.

use super::Error;

/// Splits at single commas; a doubled comma stands for one that belongs to the word.
///
/// Always yields at least one word, possibly empty.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char == ',' && chars.next_if_eq(&',').is_none() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(char);
        }
    }
    words
}

/// Writes a word so that [`split`] reads it back as one.
pub(super) fn escape(word: &str) -> String {
    word.replace(',', ",,")
}

/// Splits `key=value` at the first equals sign and refuses a key that came before.
///
/// # Errors
/// [`Error::UnknownKey`], [`Error::NoValue`], [`Error::KeyTwice`].
pub(super) fn key_value<'a>(
    word: &'a str,
    place: &str,
    keys: &'static [&'static str],
    seen: &mut Vec<&'static str>,
) -> Result<(&'static str, &'a str), Error> {
    let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
    let key = known(name, place, keys)?;
    let value = value.ok_or(Error::NoValue { key })?;
    if seen.contains(&key) {
        return Err(Error::KeyTwice { key, place: place.to_owned() });
    }
    seen.push(key);
    Ok((key, value))
}

/// The valid key that `name` is.
///
/// # Errors
/// [`Error::UnknownKey`], which names the nearest one.
pub(super) fn known(name: &str, place: &str, keys: &'static [&'static str]) -> Result<&'static str, Error> {
    keys.iter().copied().find(|key| *key == name).ok_or_else(|| Error::UnknownKey {
        key: name.to_owned(),
        place: place.to_owned(),
        nearest: nearest(name, keys),
        valid: keys,
    })
}

/// The key that looks most like `name`.
pub(crate) fn nearest<'a>(name: &str, keys: &[&'a str]) -> &'a str {
    let name = name.to_ascii_lowercase();
    let likeness = |key: &str| strsim::jaro_winkler(&name, key);
    keys.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or_default()
}

/// Reads `on` or `off`.
///
/// # Errors
/// [`Error::UnknownValue`] for every other word.
pub(super) fn switch(what: &'static str, text: &str) -> Result<bool, Error> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Error::UnknownValue { what, value: text.to_owned(), valid: &["on", "off"] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubled_comma_belongs_to_the_word() {
        for (text, words) in [
            ("", vec![""]),
            ("a", vec!["a"]),
            ("a,b", vec!["a", "b"]),
            ("a,,b,c", vec!["a,b", "c"]),
            ("a,,,b", vec!["a,", "b"]),
            (",a,", vec!["", "a", ""]),
            (",,", vec![","]),
        ] {
            assert_eq!(split(text), words, "{text}");
        }
    }

    #[test]
    fn an_escaped_word_is_read_back_as_one() {
        for word in ["", ",", "a,b", ",,a,"] {
            assert_eq!(split(&escape(word)), [word]);
        }
    }

    #[test]
    fn only_the_first_equals_sign_separates() {
        let mut seen = Vec::new();
        assert_eq!(key_value("path=a=b", "here", &["path"], &mut seen).unwrap(), ("path", "a=b"));
    }

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        let keys = &["size", "backing", "block", "prefault"];
        for (typed, meant) in [
            ("blok", "block"),
            ("Backing", "backing"),
            ("back", "backing"),
            ("prefalt", "prefault"),
            ("sz", "size"),
        ] {
            assert_eq!(nearest(typed, keys), meant, "{typed}");
        }
    }
}
