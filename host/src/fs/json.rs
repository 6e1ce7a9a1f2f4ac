//! A JSON lexer for large files: no recursion, no tree, byte positions in errors.
//!
//! Strings are byte strings. Python writes file names that are not UTF-8 with each stray byte *b*
//! as the lone surrogate U+DC00+*b* ("surrogateescape"); such escapes become that byte again.

use std::borrow::Cow;

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JsonError {
    /// Byte position.
    pub(super) at: usize,
    /// What is wrong.
    pub(super) reason: Cow<'static, str>,
}

type Result<T> = std::result::Result<T, JsonError>;

/// A number: those with a fraction or beyond 64 bits are not integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Integer(i128),
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        // The byte order mark that some editors put in front.
        Self { text, at: if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 } }
    }

    pub(super) fn error<T>(&self, reason: impl Into<Cow<'static, str>>) -> Result<T> {
        Err(JsonError { at: self.at, reason: reason.into() })
    }

    /// The next byte that is not white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    /// Takes `byte` if it comes next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        if is_next {
            self.at += 1;
        }
        is_next
    }

    /// Takes `byte`, which has to come next.
    pub(super) fn expect(&mut self, byte: u8) -> Result<()> {
        if self.take(byte) { Ok(()) } else { self.unexpected(&format!("'{}'", char::from(byte))) }
    }

    /// The error for something else than `expected`.
    pub(super) fn unexpected<T>(&mut self, expected: &str) -> Result<T> {
        let found = self.describe_next();
        self.error(format!("expected {expected}, found {found}"))
    }

    /// What comes next, in words.
    fn describe_next(&mut self) -> &'static str {
        match self.peek() {
            None => "the end of the file",
            Some(b'"') => "a string",
            Some(b'[') => "an array",
            Some(b'{') => "an object",
            Some(b't' | b'f') => "a truth value",
            Some(b'n') => "null",
            Some(b'-' | b'0'..=b'9') => "a number",
            Some(b',') => "','",
            Some(b']') => "']'",
            Some(b'}') => "'}'",
            Some(b':') => "':'",
            Some(_) => "something that is not JSON",
        }
    }

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.unexpected("the end of the file"),
        }
    }

    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>> {
        if !self.take(b'"') {
            return self.unexpected("a string");
        }
        let start = self.at;
        let mut owned: Option<Vec<u8>> = None;
        let mut from = start;
        loop {
            let Some(byte) = self.text.get(self.at).copied() else {
                return self.error("the string does not end");
            };
            match byte {
                b'"' => {
                    let last = &self.text[from..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(last),
                        Some(mut bytes) => {
                            bytes.extend_from_slice(last);
                            Cow::Owned(bytes)
                        }
                    });
                }
                b'\\' => {
                    let bytes = owned.get_or_insert_default();
                    bytes.extend_from_slice(&self.text[from..self.at]);
                    self.at += 1;
                    self.escape(bytes)?;
                    from = self.at;
                }
                0..0x20 => return self.error("a control character in a string"),
                _ => self.at += 1,
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let Some(byte) = self.text.get(self.at).copied() else {
            return self.error("the string does not end");
        };
        self.at += 1;
        out.push(match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.unicode_escape(out),
            _ => {
                self.at -= 1;
                return self.error("an unknown escape in a string");
            }
        });
        Ok(())
    }

    fn unicode_escape(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let unit = self.hex4()?;
        let character = match unit {
            0xd800..=0xdbff => {
                let after = self.at;
                let low = if self.text[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    self.hex4()?
                } else {
                    0
                };
                if !(0xdc00..=0xdfff).contains(&low) {
                    self.at = after;
                    return self.error("half of a surrogate pair in a string");
                }
                char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
            }
            // A byte that is not UTF-8, as Python writes it.
            0xdc80..=0xdcff => {
                out.push((unit & 0xff) as u8);
                return Ok(());
            }
            _ => char::from_u32(unit),
        };
        match character {
            Some(character) => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            None => return self.error("half of a surrogate pair in a string"),
        }
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32> {
        let mut value = 0;
        for _ in 0..4 {
            let digit = self.text.get(self.at).and_then(|byte| char::from(*byte).to_digit(16));
            let Some(digit) = digit else {
                return self.error("\\u needs four hexadecimal digits");
            };
            value = value << 4 | digit;
            self.at += 1;
        }
        Ok(value)
    }

    pub(super) fn number(&mut self) -> Result<Number> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return self.unexpected("a number");
        }
        let start = self.at;
        let negative = self.text[self.at] == b'-';
        self.at += usize::from(negative);
        let whole = self.digits()?;
        if whole.len() > 1 && whole[0] == b'0' {
            return self.error("a number with a leading zero");
        }
        let mut integer = true;
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
            integer = false;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
            integer = false;
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        if integer {
            return Ok(text.parse().map_or(Number::Other, Number::Integer));
        }
        // 1.0 and 1e3 are integers too; up to 2^53 they are exact.
        Ok(match text.parse::<f64>() {
            Ok(value) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => {
                Number::Integer(value as i128)
            }
            _ => Number::Other,
        })
    }

    fn digits(&mut self) -> Result<&'a [u8]> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.text.get(self.at) {
            self.at += 1;
        }
        if self.at == start {
            self.error("a digit is missing in a number")
        } else {
            Ok(&self.text[start..self.at])
        }
    }

    /// Passes over any value, checking it.
    pub(super) fn skip_value(&mut self) -> Result<()> {
        // The closing brackets that are due.
        let mut open = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => drop(self.string()?),
                Some(b'-' | b'0'..=b'9') => drop(self.number()?),
                Some(b't') => self.word(b"true")?,
                Some(b'f') => self.word(b"false")?,
                Some(b'n') => self.word(b"null")?,
                Some(b'[') => {
                    self.at += 1;
                    if !self.take(b']') {
                        open.push(b']');
                        continue;
                    }
                }
                Some(b'{') => {
                    self.at += 1;
                    if !self.take(b'}') {
                        open.push(b'}');
                        self.key()?;
                        continue;
                    }
                }
                _ => return self.unexpected("a value"),
            }
            // Behind a value: close what ends here, or go on to the next.
            loop {
                let Some(close) = open.last().copied() else { return Ok(()) };
                if self.take(close) {
                    open.pop();
                    continue;
                }
                self.expect(b',')?;
                if close == b'}' {
                    self.key()?;
                }
                break;
            }
        }
    }

    /// A key and its colon.
    pub(super) fn key(&mut self) -> Result<Cow<'a, [u8]>> {
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    fn word(&mut self, word: &[u8]) -> Result<()> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        self.error("something that is not JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Result<Vec<u8>> {
        Lexer::new(text.as_bytes()).string().map(Cow::into_owned)
    }

    #[test]
    fn string_escapes_are_resolved() {
        assert_eq!(string(r#""plain""#).unwrap(), b"plain");
        assert_eq!(string(r#" "a\"\\\/\b\f\n\r\tz" "#).unwrap(), b"a\"\\/\x08\x0c\n\r\tz");
        assert_eq!(string(r#""\u003ca\u00e9\ud83d\ude00""#).unwrap(), "<aé😀".as_bytes());
        assert_eq!(string("\"é\"").unwrap(), "é".as_bytes());
    }

    #[test]
    fn string_surrogate_escape_is_a_raw_byte() {
        assert_eq!(string(r#""caf\udce9.txt""#).unwrap(), b"caf\xe9.txt");
    }

    #[test]
    fn string_malformed_is_an_error_at_its_place() {
        let cases = [
            (r#""abc"#, 4),
            (r#""a\x""#, 3),
            (r#""\u12g4""#, 5),
            (r#""\ud83dx""#, 7),
            (r#""\ud83d\u0041""#, 7),
            (r#""\udc41""#, 7),
            ("\"a\nb\"", 2),
            ("\"\\", 2),
            ("7", 0),
        ];
        for (text, at) in cases {
            assert_eq!(string(text).unwrap_err().at, at, "{text}");
        }
    }

    #[test]
    fn number_integers_are_exact() {
        let number = |text: &str| Lexer::new(text.as_bytes()).number();
        assert_eq!(number("18446744073709551615"), Ok(Number::Integer(u64::MAX.into())));
        assert_eq!(number("-5"), Ok(Number::Integer(-5)));
        assert_eq!(number("1.0"), Ok(Number::Integer(1)));
        assert_eq!(number("4e3"), Ok(Number::Integer(4000)));
        assert_eq!(number("1.5"), Ok(Number::Other));
        assert_eq!(number("1e300"), Ok(Number::Other));
        assert_eq!(number(&"9".repeat(50)), Ok(Number::Other));
        for bad in ["01", "-", "1.", "1e", ".5", "+1", ""] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn skip_value_takes_any_json_and_nothing_else() {
        for good in ["[]", "{}", "[1,[2,{\"a\":[]}],null]", "{\"a\":true,\"b\":[false]}", "\"x\"", " 1 "] {
            let mut lexer = Lexer::new(good.as_bytes());
            assert_eq!(lexer.skip_value().and_then(|()| lexer.end()), Ok(()), "{good}");
        }
        for bad in ["[1,]", "[1 2]", "{\"a\"}", "{1:2}", "{\"a\":1,}", "[}", "nul", "", "]", "[1]]", "["] {
            let mut lexer = Lexer::new(bad.as_bytes());
            assert!(lexer.skip_value().and_then(|()| lexer.end()).is_err(), "{bad}");
        }
    }

    #[test]
    fn skip_value_deeply_nested_does_not_recurse() {
        let text = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert_eq!(Lexer::new(text.as_bytes()).skip_value(), Ok(()));
    }
}
