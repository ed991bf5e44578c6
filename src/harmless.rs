//! Strangers' words, for the log and for terminals: what shows nothing there, and does something.

/// The text with such characters escaped, `\u{1b}`: it stays one line, and no terminal obeys it.
pub(crate) fn harmless(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) { told.extend(c.escape_unicode()) } else { told.push(c) }
    }
    told
}

/// Control characters, and those that show nothing and change what is shown: Unicode's own line separators, which some readers take
/// for the end of a line, those that turn the direction of text, and those of no width. The two joiners stay: words of some
/// languages have them.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
