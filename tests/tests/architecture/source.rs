//! Just enough of Rust's grammar to measure source files.

/// A function's or trait's place in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) name: String,
    /// Lines from its keyword to its closing brace.
    pub(crate) lines: usize,
    pub(crate) body: String,
}

/// The lines before the file's test module.
pub(crate) fn production(source: &str) -> &str {
    let is_tests = |at: usize| source[at..].lines().nth(1).is_some_and(|next| next.trim_start().starts_with("mod "));
    source.match_indices("#[cfg(test)]").map(|(at, _)| at).find(|at| is_tests(*at)).map_or(source, |at| &source[..at])
}

/// The same text with the inside of comments, strings and character literals blanked, line for line.
pub(crate) fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(bytes, at);
        for byte in &mut out[at..end.max(at)] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that starts at `at` ends; `at` when none starts there.
fn skip(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment(rest),
        [b'"', ..] => at + quoted(rest, b'"'),
        [b'r', b'"' | b'#', ..] if !after_word => at + raw_string(rest).unwrap_or(0),
        [b'b', b'r', b'"' | b'#', ..] if !after_word => at + raw_string(&rest[1..]).map_or(0, |length| length + 1),
        // A quote starts a character when it closes after one or is escaped; otherwise it is a lifetime.
        [b'\'', b'\\', ..] => at + quoted(rest, b'\''),
        [b'\'', ..] => at + character(rest),
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let start = 2 + hashes;
    let length = rest[start..].windows(close.len()).position(|window| window == close);
    Some(length.map_or(rest.len(), |length| start + length + close.len()))
}

fn character(rest: &[u8]) -> usize {
    let length = std::str::from_utf8(&rest[1..rest.len().min(5)]).unwrap_or_else(|error| {
        // The slice may end inside a character; what comes before it is whole.
        std::str::from_utf8(&rest[1..=error.valid_up_to()]).unwrap_or("")
    });
    let length = length.chars().next().map_or(0, char::len_utf8);
    if rest.get(1 + length) == Some(&b'\'') { length + 2 } else { 0 }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands alone in `code`.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    let alone = move |at: &usize| {
        let after = bytes.get(at + word.len());
        (*at == 0 || !is_word(bytes[at - 1])) && !after.is_some_and(|byte| is_word(*byte))
    };
    code.match_indices(word).map(|(at, _)| at).filter(alone)
}

/// Every item in `code` that `keyword` (`fn`, `trait`) declares and that has a body.
pub(crate) fn items(code: &str, keyword: &str) -> Vec<Item> {
    words(code, keyword).filter_map(|at| item(code, at, at + keyword.len())).collect()
}

fn item(code: &str, start: usize, after_keyword: usize) -> Option<Item> {
    let name: String =
        code[after_keyword..].trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut nested = 0_i32;
    let open = after_keyword
        + code[after_keyword..].bytes().position(|byte| {
            nested += i32::from(matches!(byte, b'(' | b'[')) - i32::from(matches!(byte, b')' | b']'));
            nested == 0 && matches!(byte, b'{' | b';')
        })?;
    // A function type (`fn(A) -> B`) has no name, a declaration no body.
    if name.is_empty() || code.as_bytes()[open] == b';' {
        return None;
    }
    let mut depth = 0_i32;
    let length = code[open..].bytes().position(|byte| {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        depth == 0
    })?;
    let body = code[open..=open + length].to_owned();
    Some(Item { name, lines: code[start..=open + length].lines().count(), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let cases = [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"a "x \" {" b"#, "a          b"),
            (r##"a r#"{"{"# b"##, "a          b"),
            ("'{' 'a '\\'' &'static x", "    'a      &'static x"),
            ("'\u{e9}' {", "     {"),
        ];
        for (source, expected) in cases {
            assert_eq!(code(source), expected, "{source}");
        }
    }

    #[test]
    fn the_test_module_does_not_count() {
        assert_eq!(
            production("a\n#[cfg(test)]\nuse b;\nc\n#[cfg(test)]\nmod tests {}\n"),
            "a\n#[cfg(test)]\nuse b;\nc\n"
        );
        assert_eq!(production("a\n"), "a\n");
    }

    #[test]
    fn functions_are_measured_and_function_types_are_not() {
        let source = "fn one(f: fn(u8) -> u8, n: [u8; 3]) -> u8 {\n  { 1 }\n}\ntrait T {\n  fn a(&self);\n  fn b(&self) { }\n}\n";
        let functions = items(&code(source), "fn");
        let measured: Vec<(&str, usize)> = functions.iter().map(|item| (item.name.as_str(), item.lines)).collect();
        assert_eq!(measured, [("one", 3), ("b", 1)]);
        let traits = items(&code(source), "trait");
        assert_eq!((traits[0].name.as_str(), words(&traits[0].body, "fn").count()), ("T", 2));
    }

    #[test]
    fn a_word_inside_a_word_is_not_found() {
        assert_eq!(words("unsafe_code not_unsafe unsafe{", "unsafe").count(), 1);
    }
}
