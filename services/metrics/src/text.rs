//! Foreign text, bounded before it is kept.

/// The longest name or label value that is kept, in bytes.
pub(crate) const MAX_TEXT: usize = 128;

/// The text, cut to at most `max` bytes between characters.
pub(crate) fn clipped(text: &str, max: usize) -> String {
    // `str::floor_char_boundary` is younger than the compiler we ask for; a character has at most four bytes.
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_never_split() {
        assert_eq!(clipped("a\u{e9}b", 2), "a");
        assert_eq!(clipped("a\u{e9}b", 3), "a\u{e9}");
        assert_eq!(clipped("a\u{e9}b", 9), "a\u{e9}b");
        assert_eq!(clipped("\u{1f600}", 3), "");
    }
}
