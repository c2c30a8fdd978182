//! Words, bare and quoted.

use proptest::prelude::*;

use super::words::{Word, WordError, Words};

fn words(line: &str) -> Result<Vec<Word>, WordError> {
    let mut words = Words::new(line);
    let mut all = Vec::new();
    while let Some(word) = words.next()? {
        all.push(word);
    }
    Ok(all)
}

fn texts(line: &str) -> Vec<String> {
    words(line)
        .unwrap()
        .into_iter()
        .map(|word| word.text)
        .collect()
}

#[test]
fn words_are_cut_at_space() {
    assert_eq!(texts("  a\tb  c "), ["a", "b", "c"]);
    assert_eq!(texts(""), [""; 0]);
    assert_eq!(texts("it's a\"b"), ["it's", "a\"b"]);
}

#[test]
fn quotes_hold_words_together() {
    assert_eq!(
        texts(r#""a b" "" "q\"\\\'\n\r""#),
        ["a b", "", "q\"\\'\n\r"]
    );
    assert!(words("\"5\"").unwrap()[0].quoted);
    assert!(!words("5").unwrap()[0].quoted);
}

#[test]
fn broken_quotes_are_errors() {
    assert_eq!(words("\"a"), Err(WordError::Unterminated));
    assert_eq!(words("\"a\\"), Err(WordError::Unterminated));
    assert_eq!(words(r#""\x""#), Err(WordError::Escape('x')));
}

proptest! {
    #[test]
    fn any_line_is_cut_or_refused(line in any::<String>()) {
        let _ = words(&line);
    }

    #[test]
    fn any_text_can_be_quoted(text in any::<String>()) {
        let quoted = text.replace('\\', r"\\").replace('"', "\\\"");
        prop_assert_eq!(texts(&format!("\"{quoted}\"")), [text]);
    }
}
