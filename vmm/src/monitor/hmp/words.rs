//! A line cut into words: bare ones, and ones in double quotes with escapes.

/// A word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// The word, without quotes and with escapes resolved.
    pub(super) text: String,
    /// It stood in quotes: it is text, and neither an option nor a size.
    pub(super) quoted: bool,
}

/// Why there is no word; the texts are QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WordError {
    #[error("unterminated string")]
    Unterminated,
    #[error("unsupported escape code: '\\{0}'")]
    Escape(char),
}

/// Takes words off the front of a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    line: &'a str,
    position: usize,
}

impl<'a> Words<'a> {
    pub(super) fn new(line: &'a str) -> Words<'a> {
        Words { line, position: 0 }
    }

    /// Bytes taken so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// What has not been taken.
    pub(super) fn rest(&self) -> &'a str {
        &self.line[self.position..]
    }

    /// The next word as it stands, quotes and all.
    pub(super) fn bare(&mut self) -> Option<&'a str> {
        self.skip_space();
        let rest = self.rest();
        let end = rest
            .find(|c: char| c.is_ascii_whitespace())
            .unwrap_or(rest.len());
        self.position += end;
        (end > 0).then_some(&rest[..end])
    }

    /// The next word; `None` at the end of the line.
    pub(super) fn next(&mut self) -> Result<Option<Word>, WordError> {
        self.skip_space();
        if self.rest().starts_with('"') {
            return self.quoted().map(Some);
        }
        Ok(self.bare().map(|text| Word {
            text: text.to_owned(),
            quoted: false,
        }))
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.position += rest.len() - rest.trim_ascii_start().len();
    }

    fn quoted(&mut self) -> Result<Word, WordError> {
        let mut text = String::new();
        let mut characters = self.rest().char_indices().skip(1);
        while let Some((index, character)) = characters.next() {
            match character {
                '"' => {
                    self.position += index + 1;
                    return Ok(Word { text, quoted: true });
                }
                '\\' => match characters.next().ok_or(WordError::Unterminated)?.1 {
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    same @ ('\\' | '\'' | '"') => text.push(same),
                    other => return Err(WordError::Escape(other)),
                },
                _ => text.push(character),
            }
        }
        Err(WordError::Unterminated)
    }
}
