//! The lexer: splits text into tokens, each with its line.

use crate::error::ParseError;

/// Kinds of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// Opcodes, names, directives; dots inside belong to the word.
    Word,
    /// Anything that starts with a digit.
    Number,
    /// Text in double quotes, without them.
    Text,
    /// One character.
    Punct,
}

/// A piece of the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub kind: TokenKind,
    pub text: &'a str,
    /// Counted from 1.
    pub line: u32,
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// Splits `source` into tokens; `name` is the file's name for the error.
pub(crate) fn tokens<'a>(name: &str, source: &'a str) -> Result<Vec<Token<'a>>, ParseError> {
    let bytes = source.as_bytes();
    let (mut at, mut line) = (0, 1u32);
    let mut out = Vec::with_capacity(bytes.len() / 4);
    while at < bytes.len() {
        let c = bytes[at];
        let start = at;
        let rest = &bytes[at..];
        if c == b'\n' {
            line += 1;
            at += 1;
        } else if c.is_ascii_whitespace() || c == 0 {
            at += 1;
        } else if rest.starts_with(b"//") {
            at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            let Some(length) = rest.windows(2).skip(2).position(|w| w == b"*/") else {
                return Err(ParseError::new(name, line, "a comment that never ends"));
            };
            line += rest[..length + 4].iter().filter(|&&b| b == b'\n').count() as u32;
            at += length + 4;
        } else if c == b'"' {
            let length = rest[1..].iter().position(|&b| b == b'"' || b == b'\n');
            let Some(length) = length.filter(|&n| rest[n + 1] == b'"') else {
                return Err(ParseError::new(name, line, "text in quotes that never ends"));
            };
            at += length + 2;
            out.push(Token { kind: TokenKind::Text, text: &source[start + 1..at - 1], line });
        } else if is_word(c) {
            at = word_end(bytes, at);
            let kind = if c.is_ascii_digit() { TokenKind::Number } else { TokenKind::Word };
            out.push(Token { kind, text: &source[start..at], line });
        } else if c.is_ascii() {
            at += 1;
            out.push(Token { kind: TokenKind::Punct, text: &source[start..at], line });
        } else {
            return Err(ParseError::new(name, line, "a character outside ASCII"));
        }
    }
    Ok(out)
}

/// Finds the end of a word, which may contain `::` between two names, as in `L2::128B`.
fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        let inner =
            bytes[at..].starts_with(b"::") && bytes.get(at + 2).is_some_and(|&c| is_word(c));
        if inner {
            at += 2;
        } else if !is_word(bytes[at]) {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_through_comments() {
        let found = tokens("t", "a /* b\n\n */ c // d\n e::f \"g h\"; 0x1F").unwrap();
        let texts: Vec<_> = found.iter().map(|t| (t.text, t.line)).collect();
        let want = [("a", 1), ("c", 3), ("e::f", 4), ("g h", 4), (";", 4), ("0x1F", 4)];
        assert_eq!(texts, want);
    }

    #[test]
    fn open_comment_and_open_text_are_refused_with_their_line() {
        assert_eq!(tokens("t", "\n/* a").unwrap_err().line, 2);
        assert_eq!(tokens("t", "\n\n\"a\n").unwrap_err().line, 3);
        assert!(tokens("t", "/*/").is_err());
    }
}
