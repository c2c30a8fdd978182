//! Arguments of HMP commands: declared once, taken from the words of the line in that order.

use super::size::parse_size;
use super::words::{Word, WordError, Words};

/// Type of an argument.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Options of one letter each, in any order.
    Options(&'static [char]),
    /// A disk, or the job on it.
    Device,
    /// A path.
    File,
    /// Any other word.
    Text,
    /// Bytes; a bare number counts MiB.
    Size,
    /// A number from 0 on.
    Number,
    /// A word that is a size is one; any other is left to the next argument.
    MaybeSize,
    /// All words that are left.
    Rest,
}

/// One argument.
#[derive(Debug)]
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
}

/// Why the words do not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    InvalidSize,
    InvalidNumber,
    /// No such option.
    Option(String),
    /// Something required is missing.
    Expected(&'static str),
    /// Words are left over.
    Extraneous,
    /// A word in quotes is malformed where this was expected.
    Word(WordError, &'static str),
}

/// What was given.
#[derive(Debug, Default)]
pub(super) struct Args {
    options: Vec<char>,
    texts: Vec<(&'static str, String)>,
    sizes: Vec<(&'static str, u64)>,
}

impl Args {
    pub(super) fn has(&self, option: char) -> bool {
        self.options.contains(&option)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        let (_, text) = self.texts.iter().find(|(given, _)| *given == name)?;
        Some(text.clone())
    }

    /// A word that the declaration requires.
    pub(super) fn required_text(&self, name: &str) -> String {
        self.text(name).unwrap_or_default()
    }

    /// In bytes.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        let (_, size) = self.sizes.iter().find(|(given, _)| *given == name)?;
        Some(*size)
    }
}

/// Takes the arguments from what follows the command's name.
pub(super) fn parse(params: &[Param], line: &str) -> Result<Args, Failure> {
    let mut args = Args::default();
    let mut words = Words::new(line);
    for param in params {
        match param.kind {
            Kind::Options(known) => parse_options(known, &mut words, &mut args)?,
            Kind::Rest => {
                args.texts
                    .push((param.name, words.rest().trim().to_owned()));
                return Ok(args);
            }
            _ => parse_word(param, &mut words, &mut args)?,
        }
    }
    if words.rest().trim_ascii().is_empty() {
        Ok(args)
    } else {
        Err(Failure::Extraneous)
    }
}

fn parse_options(known: &[char], words: &mut Words<'_>, args: &mut Args) -> Result<(), Failure> {
    let mut ahead = *words;
    while let Some(letters) = ahead.bare().and_then(|word| word.strip_prefix('-')) {
        let mut letters = letters.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) if known.contains(&letter) => args.options.push(letter),
            (letter, _) => {
                let option = letter.map(|letter| format!("-{letter}"));
                return Err(Failure::Option(option.unwrap_or_else(|| "-".to_owned())));
            }
        }
        *words = ahead;
    }
    Ok(())
}

fn parse_word(param: &Param, words: &mut Words<'_>, args: &mut Args) -> Result<(), Failure> {
    let what = match param.kind {
        Kind::Device => "block device name",
        Kind::File => "filename",
        _ => "string",
    };
    let mut ahead = *words;
    let word = ahead.next().map_err(|error| Failure::Word(error, what))?;
    match (param.kind, word) {
        (Kind::Size, word) if word.is_some() || param.required => {
            let size = word
                .as_ref()
                .and_then(size_of)
                .ok_or(Failure::InvalidSize)?;
            args.sizes.push((param.name, size));
        }
        (Kind::Number, word) if word.is_some() || param.required => {
            let number = word.as_ref().and_then(|word| word.text.parse().ok());
            let number = number.ok_or(Failure::InvalidNumber)?;
            args.sizes.push((param.name, number));
        }
        (Kind::MaybeSize, word) => match word.as_ref().and_then(size_of) {
            Some(size) => args.sizes.push((param.name, size)),
            None => return Ok(()),
        },
        (_, Some(word)) => args.texts.push((param.name, word.text)),
        (_, None) if param.required => return Err(Failure::Expected(what)),
        (_, None) => {}
    }
    *words = ahead;
    Ok(())
}

fn size_of(word: &Word) -> Option<u64> {
    if word.quoted {
        None
    } else {
        parse_size(&word.text)
    }
}
