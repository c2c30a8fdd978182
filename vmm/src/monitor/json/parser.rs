//! Tokens to values, one token at a time, with an explicit stack.

use std::collections::VecDeque;

use serde_json::{Map, Number, Value};

use super::lexer::{Lexer, Token};
use crate::monitor::{MAX_NESTING, MAX_REQUEST};

/// Why what came is not a value; the texts are QEMU's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::monitor) enum JsonError {
    /// It breaks the grammar.
    #[error("JSON parse error, {0}")]
    Syntax(String),
    /// Too deep.
    #[error("JSON nesting depth limit exceeded")]
    Nesting,
    /// Longer than [`MAX_REQUEST`]. The stream is not to be read on.
    #[error("QMP input is longer than {MAX_REQUEST} bytes")]
    Length,
}

/// Splits a stream of bytes into values, and reports one error for every piece that is not one.
#[derive(Debug)]
pub(in crate::monitor) struct Parser {
    lexer: Lexer,
    message: Message,
    /// Bytes since the unfinished value began.
    length: usize,
    /// Values and errors not yet taken.
    ready: VecDeque<Result<Value, JsonError>>,
}

impl Parser {
    pub(in crate::monitor) fn new() -> Parser {
        Parser {
            lexer: Lexer::new(),
            message: Message::default(),
            length: 0,
            ready: VecDeque::new(),
        }
    }

    /// Reads `input` up to the end of the next value. Says how many bytes it has used; with `None`
    /// that is all of them.
    pub(in crate::monitor) fn next(
        &mut self,
        input: &[u8],
    ) -> (usize, Option<Result<Value, JsonError>>) {
        let mut used = 0;
        while self.ready.is_empty() && used < input.len() {
            self.feed(input[used]);
            used += 1;
        }
        (used, self.ready.pop_front())
    }

    fn feed(&mut self, byte: u8) {
        let Parser {
            lexer,
            message,
            length,
            ready,
        } = self;
        *length += 1;
        if *length > MAX_REQUEST {
            *self = Parser::new();
            self.ready.push_back(Err(JsonError::Length));
            return;
        }
        lexer.feed(byte, &mut |token| ready.extend(message.push(token)));
        if message.is_empty() && lexer.is_idle() {
            *length = 0;
        }
    }
}

/// An array or object that is not closed yet.
#[derive(Debug)]
enum Frame {
    Array(Vec<Value>),
    Object(Map<String, Value>, String),
}

/// What the grammar allows next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expect {
    #[default]
    Value,
    /// After `[`.
    ValueOrEnd,
    /// After `{`.
    KeyOrEnd,
    Key,
    Colon,
    /// After a member or an element.
    CommaOrEnd,
}

/// The value under construction.
///
/// As in QEMU, a value ends where its braces and brackets, each kind counted alone, are balanced;
/// until there an error is only remembered, so that one broken request gives one error.
#[derive(Debug, Default)]
struct Message {
    stack: Vec<Frame>,
    expect: Expect,
    braces: i64,
    brackets: i64,
    error: Option<String>,
}

impl Message {
    fn is_empty(&self) -> bool {
        self.braces == 0 && self.brackets == 0
    }

    fn push(&mut self, token: Token) -> Option<Result<Value, JsonError>> {
        match token {
            Token::Stray(text) => {
                *self = Message::default();
                let text = format!("stray '{}'", String::from_utf8_lossy(&text));
                return Some(Err(JsonError::Syntax(text)));
            }
            Token::LeftBrace => self.braces += 1,
            Token::RightBrace => self.braces -= 1,
            Token::LeftBracket => self.brackets += 1,
            Token::RightBracket => self.brackets -= 1,
            _ => {}
        }
        if self.braces + self.brackets > MAX_NESTING as i64 {
            *self = Message::default();
            return Some(Err(JsonError::Nesting));
        }
        let mut root = None;
        if self.error.is_none() {
            match self.step(token) {
                Ok(value) => root = value,
                Err(error) => {
                    self.error = Some(error);
                    self.stack = Vec::new();
                }
            }
        }
        let open = self.braces > 0 || self.brackets > 0;
        if open && self.braces >= 0 && self.brackets >= 0 {
            return None;
        }
        let error = std::mem::take(self).error;
        // Without an error, balance is reached by the very token that completes the root.
        match (root, error) {
            (Some(value), None) => Some(Ok(value)),
            (_, error) => Some(Err(JsonError::Syntax(error.unwrap_or_default()))),
        }
    }

    /// Applies one token; gives the root if that completes it.
    fn step(&mut self, token: Token) -> Result<Option<Value>, String> {
        match (self.expect, token) {
            (Expect::ValueOrEnd | Expect::CommaOrEnd, Token::RightBracket)
                if matches!(self.stack.last(), Some(Frame::Array(_))) =>
            {
                self.close()
            }
            (Expect::KeyOrEnd | Expect::CommaOrEnd, Token::RightBrace)
                if matches!(self.stack.last(), Some(Frame::Object(..))) =>
            {
                self.close()
            }
            (Expect::CommaOrEnd, token) => self.comma(&token),
            (Expect::Key | Expect::KeyOrEnd, token) => self.key(token),
            (Expect::Colon, Token::Colon) => {
                self.expect = Expect::Value;
                Ok(None)
            }
            (Expect::Colon, _) => Err("missing : in object pair".to_owned()),
            (Expect::Value | Expect::ValueOrEnd, Token::LeftBracket) => {
                self.stack.push(Frame::Array(Vec::new()));
                self.expect = Expect::ValueOrEnd;
                Ok(None)
            }
            (Expect::Value | Expect::ValueOrEnd, Token::LeftBrace) => {
                self.stack.push(Frame::Object(Map::new(), String::new()));
                self.expect = Expect::KeyOrEnd;
                Ok(None)
            }
            (Expect::Value | Expect::ValueOrEnd, token) => {
                let value = scalar(token)?;
                self.add(value)
            }
        }
    }

    fn close(&mut self) -> Result<Option<Value>, String> {
        match self.stack.pop() {
            Some(Frame::Array(elements)) => self.add(Value::Array(elements)),
            Some(Frame::Object(members, _)) => self.add(Value::Object(members)),
            None => Err("expecting value".to_owned()),
        }
    }

    fn comma(&mut self, token: &Token) -> Result<Option<Value>, String> {
        self.expect = match (self.stack.last(), token) {
            (Some(Frame::Object(..)), Token::Comma) => Expect::Key,
            (Some(Frame::Object(..)), _) => return Err("expected separator in dict".to_owned()),
            (_, Token::Comma) => Expect::Value,
            (_, _) => return Err("expected separator in list".to_owned()),
        };
        Ok(None)
    }

    fn key(&mut self, token: Token) -> Result<Option<Value>, String> {
        let not_a_string = || "key is not a string in object".to_owned();
        if matches!(token, Token::LeftBrace | Token::LeftBracket) {
            return Err(not_a_string());
        }
        let Value::String(text) = scalar(token)? else {
            return Err(not_a_string());
        };
        let Some(Frame::Object(members, key)) = self.stack.last_mut() else {
            return Err(not_a_string());
        };
        if members.contains_key(&text) {
            return Err("duplicate key".to_owned());
        }
        *key = text;
        self.expect = Expect::Colon;
        Ok(None)
    }

    /// Puts a complete value where it belongs.
    fn add(&mut self, value: Value) -> Result<Option<Value>, String> {
        self.expect = Expect::CommaOrEnd;
        match self.stack.last_mut() {
            None => return Ok(Some(value)),
            Some(Frame::Array(elements)) => elements.push(value),
            Some(Frame::Object(members, key)) => {
                members.insert(std::mem::take(key), value);
            }
        }
        Ok(None)
    }
}

/// The value of a token that is one by itself.
fn scalar(token: Token) -> Result<Value, String> {
    match token {
        Token::Text(raw) => unescape(&raw).map(Value::String),
        Token::Integer(text) => Ok(integer(&text)),
        Token::Float(text) => Ok(float(&text)),
        Token::Keyword(word) => match word.as_str() {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "null" => Ok(Value::Null),
            _ => Err(format!("invalid keyword '{word}'")),
        },
        _ => Err("expecting value".to_owned()),
    }
}

/// Signed or unsigned 64 bits where they suffice, a float beyond.
fn integer(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    text.parse::<u64>()
        .map_or_else(|_| float(text), Value::from)
}

/// What overflows is clamped to the largest float: JSON has no infinity to echo.
fn float(text: &str) -> Value {
    let number = text.parse::<f64>().unwrap_or(0.0).clamp(f64::MIN, f64::MAX);
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// Resolves the escapes of a string.
fn unescape(raw: &[u8]) -> Result<String, String> {
    let text =
        std::str::from_utf8(raw).map_err(|_| "invalid UTF-8 sequence in string".to_owned())?;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        let (character, length) = match escape.as_bytes().get(1) {
            Some(b'u') => unicode(escape)?,
            Some(&byte) => (simple_escape(byte)?, 2),
            None => return Err("invalid escape sequence in string".to_owned()),
        };
        out.push(character);
        rest = &escape[length..];
    }
    out.push_str(rest);
    Ok(out)
}

fn simple_escape(byte: u8) -> Result<char, String> {
    Ok(match byte {
        b'"' | b'\'' | b'\\' | b'/' => char::from(byte),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        _ => return Err("invalid escape sequence in string".to_owned()),
    })
}

/// `\uXXXX`, or two of them that form a surrogate pair; and the length in bytes.
fn unicode(escape: &str) -> Result<(char, usize), String> {
    let unit = |at: usize| {
        let digits = escape.get(at..at + 6)?.strip_prefix("\\u")?;
        let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        all_hex.then(|| u32::from_str_radix(digits, 16).ok())?
    };
    let found = match (unit(0), unit(6)) {
        (Some(high @ 0xd800..=0xdbff), Some(low @ 0xdc00..=0xdfff)) => {
            let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            char::from_u32(code).map(|character| (character, 12))
        }
        (Some(code), _) => char::from_u32(code).map(|character| (character, 6)),
        (None, _) => None,
    };
    found.ok_or_else(|| {
        let shown: String = escape.chars().take(6).collect();
        format!("{shown} is not a valid Unicode character")
    })
}
