//! Option values of the form `key=value,key=value`, a comma inside a value doubled.

/// The pairs in `text`, each key once.
///
/// # Errors
/// What is wrong, with what would be right.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in split(text) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(format!(
                "'{pair}' is not key=value (a comma inside a value is doubled)"
            ));
        };
        if pairs.iter().any(|(earlier, _)| earlier == key) {
            return Err(format!("'{key}' is given twice"));
        }
        pairs.push((key.to_owned(), value.to_owned()));
    }
    Ok(pairs)
}

/// Splits at single commas; double ones become one.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

/// One of several words.
pub(super) fn choose<T: Copy>(key: &str, value: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(word, _)| *word == value);
    found.map(|&(_, meaning)| meaning).ok_or_else(|| {
        let words: Vec<_> = all.iter().map(|(word, _)| *word).collect();
        format!("{key}={value}: expected {}", words.join(", "))
    })
}
