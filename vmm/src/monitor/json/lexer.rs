//! Bytes to tokens.

/// One token of the grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// `{`
    LeftBrace,
    /// `}`
    RightBrace,
    /// `[`
    LeftBracket,
    /// `]`
    RightBracket,
    /// `:`
    Colon,
    /// `,`
    Comma,
    /// A number without fraction and exponent.
    Integer(String),
    /// A number with one of them.
    Float(String),
    /// Lower-case letters; which words are valid is the parser's business.
    Keyword(String),
    /// What stood between the quotes, escapes and all.
    Text(Vec<u8>),
    /// Bytes that start no token or break one off.
    Stray(Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between tokens.
    Start,
    /// After an error: what follows is skipped until something that is likely to be structure.
    Recovery,
    /// In a string with this quote.
    Text {
        quote: u8,
        escaped: bool,
    },
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
}

/// The lexer; keeps at most one unfinished token.
#[derive(Debug)]
pub(super) struct Lexer {
    state: State,
    /// The bytes of the unfinished token, its opening quote excepted.
    text: Vec<u8>,
}

/// Bytes that no UTF-8 text contains; QEMU's guest agent protocol uses them to force a restart.
fn is_never_text(byte: u8) -> bool {
    !(0x20..0xfe).contains(&byte)
}

impl Lexer {
    pub(super) fn new() -> Lexer {
        Lexer {
            state: State::Start,
            text: Vec::new(),
        }
    }

    /// Takes one byte, and gives `emit` the tokens that it completes: a byte may end a number or a
    /// word and be a token itself.
    pub(super) fn feed(&mut self, byte: u8, emit: &mut impl FnMut(Token)) {
        if !self.step(byte, emit) {
            // The byte ended a token that it is not part of.
            self.step(byte, emit);
        }
    }

    /// No token is unfinished.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Start | State::Recovery)
    }

    /// One transition; `false` if the byte was only looked at.
    fn step(&mut self, byte: u8, emit: &mut impl FnMut(Token)) -> bool {
        use State::*;
        let next = match (self.state, byte) {
            (Start, _) => return self.start(byte, emit),
            (Recovery, b'{' | b'}' | b'[' | b']' | b':' | b',') => {
                self.state = Start;
                return false;
            }
            (Recovery, byte) if is_never_text(byte) => {
                self.state = Start;
                return false;
            }
            (Recovery, _) => return true,
            (
                Text {
                    quote,
                    escaped: false,
                },
                byte,
            ) if byte == quote => {
                self.state = Start;
                emit(Token::Text(std::mem::take(&mut self.text)));
                return true;
            }
            (Text { .. }, byte) if is_never_text(byte) => return self.stray(byte, emit),
            (Text { quote, escaped }, byte) => Text {
                quote,
                escaped: !escaped && byte == b'\\',
            },
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') => Digits,
            (Zero, b'0'..=b'9') => return self.stray(byte, emit),
            (Digits, b'0'..=b'9') => Digits,
            (Zero | Digits, b'.') => Point,
            (Digits | Fraction, b'e' | b'E') => Exponent,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Keyword, b'a'..=b'z') => Keyword,
            (Zero | Digits, _) => return self.finish(Token::Integer, emit),
            (Fraction | ExponentDigits, _) => return self.finish(Token::Float, emit),
            (Keyword, _) => return self.finish(Token::Keyword, emit),
            (Minus | Point | Exponent | ExponentSign, _) => return self.stray(byte, emit),
        };
        self.text.push(byte);
        self.state = next;
        true
    }

    /// The first byte of a token.
    fn start(&mut self, byte: u8, emit: &mut impl FnMut(Token)) -> bool {
        self.state = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return true,
            b'"' | b'\'' => {
                self.state = State::Text {
                    quote: byte,
                    escaped: false,
                };
                return true;
            }
            b'{' => return structural(Token::LeftBrace, emit),
            b'}' => return structural(Token::RightBrace, emit),
            b'[' => return structural(Token::LeftBracket, emit),
            b']' => return structural(Token::RightBracket, emit),
            b':' => return structural(Token::Colon, emit),
            b',' => return structural(Token::Comma, emit),
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b'a'..=b'z' => State::Keyword,
            _ => return self.stray(byte, emit),
        };
        self.text.push(byte);
        true
    }

    /// The token is complete, and the byte that showed it belongs to the next one.
    fn finish(&mut self, token: fn(String) -> Token, emit: &mut impl FnMut(Token)) -> bool {
        self.state = State::Start;
        let text = std::mem::take(&mut self.text);
        // Numbers and words are ASCII.
        emit(token(String::from_utf8_lossy(&text).into_owned()));
        false
    }

    fn stray(&mut self, byte: u8, emit: &mut impl FnMut(Token)) -> bool {
        let mut text = std::mem::take(&mut self.text);
        if let State::Text { quote, .. } = self.state {
            text.insert(0, quote);
        }
        text.push(byte);
        self.state = State::Recovery;
        emit(Token::Stray(text));
        true
    }
}

fn structural(token: Token, emit: &mut impl FnMut(Token)) -> bool {
    emit(token);
    true
}
