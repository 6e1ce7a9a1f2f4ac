//! Scan codes: text and key names to set 1, set 1 to set 2.
//!
//! Inside the program keys are set 1 (the set PC software sees): a make code, the same with bit 7
//! when released, E0h before extended keys.

/// Prefix of extended keys.
pub const EXTENDED: u8 = 0xE0;
/// Prefix of the Pause key.
pub const EXTENDED_1: u8 = 0xE1;
/// Set 1: the key was released.
pub const RELEASED: u8 = 0x80;
/// Set 2: the next code is of a released key.
const SET2_RELEASED: u8 = 0xF0;

const CTRL: u8 = 0x1D;
const SHIFT: u8 = 0x2A;

/// Characters of a US keyboard by make code from 02h on: unshifted, shifted.
const ROWS: &[(u8, &str, &str)] = &[
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1E, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (0x39, " ", " "),
];

/// Keys that are not characters: name and make codes.
const NAMED: &[(&str, &[u8])] = &[
    ("esc", &[0x01]),
    ("backspace", &[0x0E]),
    ("tab", &[0x0F]),
    ("enter", &[0x1C]),
    ("ctrl", &[CTRL]),
    ("shift", &[SHIFT]),
    ("shift-right", &[0x36]),
    ("alt", &[0x38]),
    ("space", &[0x39]),
    ("caps-lock", &[0x3A]),
    ("f1", &[0x3B]),
    ("f2", &[0x3C]),
    ("f3", &[0x3D]),
    ("f4", &[0x3E]),
    ("f5", &[0x3F]),
    ("f6", &[0x40]),
    ("f7", &[0x41]),
    ("f8", &[0x42]),
    ("f9", &[0x43]),
    ("f10", &[0x44]),
    ("num-lock", &[0x45]),
    ("scroll-lock", &[0x46]),
    ("f11", &[0x57]),
    ("f12", &[0x58]),
    ("ctrl-right", &[EXTENDED, 0x1D]),
    ("print-screen", &[EXTENDED, 0x2A, EXTENDED, 0x37]),
    ("alt-right", &[EXTENDED, 0x38]),
    ("home", &[EXTENDED, 0x47]),
    ("up", &[EXTENDED, 0x48]),
    ("page-up", &[EXTENDED, 0x49]),
    ("left", &[EXTENDED, 0x4B]),
    ("right", &[EXTENDED, 0x4D]),
    ("end", &[EXTENDED, 0x4F]),
    ("down", &[EXTENDED, 0x50]),
    ("page-down", &[EXTENDED, 0x51]),
    ("insert", &[EXTENDED, 0x52]),
    ("delete", &[EXTENDED, 0x53]),
    ("meta", &[EXTENDED, 0x5B]),
    ("meta-right", &[EXTENDED, 0x5C]),
    ("menu", &[EXTENDED, 0x5D]),
];

/// Set 2 make code for each set 1 make code; 0 = no key.
const SET2: [u8; 128] = [
    0x00, 0x76, 0x16, 0x1E, 0x26, 0x25, 0x2E, 0x36, 0x3D, 0x3E, 0x46, 0x45, 0x4E, 0x55, 0x66, 0x0D, //
    0x15, 0x1D, 0x24, 0x2D, 0x2C, 0x35, 0x3C, 0x43, 0x44, 0x4D, 0x54, 0x5B, 0x5A, 0x14, 0x1C, 0x1B, //
    0x23, 0x2B, 0x34, 0x33, 0x3B, 0x42, 0x4B, 0x4C, 0x52, 0x0E, 0x12, 0x5D, 0x1A, 0x22, 0x21, 0x2A, //
    0x32, 0x31, 0x3A, 0x41, 0x49, 0x4A, 0x59, 0x7C, 0x11, 0x29, 0x58, 0x05, 0x06, 0x04, 0x0C, 0x03, //
    0x0B, 0x83, 0x0A, 0x01, 0x09, 0x77, 0x7E, 0x6C, 0x75, 0x7D, 0x7B, 0x6B, 0x73, 0x74, 0x79, 0x69, //
    0x72, 0x7A, 0x70, 0x71, 0x84, 0x60, 0x61, 0x78, 0x07, 0x0F, 0x17, 0x1F, 0x27, 0x2F, 0x37, 0x3F, //
    0x47, 0x4F, 0x56, 0x5E, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50, 0x57, 0x6F, //
    0x13, 0x19, 0x39, 0x51, 0x53, 0x5C, 0x5F, 0x62, 0x63, 0x64, 0x65, 0x67, 0x68, 0x6A, 0x6D, 0x6E, //
];

/// Make codes of a key by name, such as `enter`, `f1`, `left`, `ctrl`; a single character names the
/// key it is on (without shift).
pub fn named_key(name: &str) -> Option<Vec<u8>> {
    if let Some((_, codes)) = NAMED.iter().find(|(n, _)| *n == name) {
        return Some(codes.to_vec());
    }
    let mut chars = name.chars();
    let (c, None) = (chars.next()?, chars.next()) else { return None };
    character(c).map(|(code, _)| vec![code])
}

/// Codes for the release of a key pressed with `make`.
pub fn release(make: &[u8]) -> Vec<u8> {
    make.iter().map(|b| if matches!(*b, EXTENDED | EXTENDED_1) { *b } else { *b | RELEASED }).collect()
}

/// Make code of a printable character and whether shift is needed.
fn character(c: char) -> Option<(u8, bool)> {
    for (first, plain, shifted) in ROWS {
        for (keys, shift) in [(plain, false), (shifted, true)] {
            if let Some(i) = keys.chars().position(|k| k == c) {
                return Some((first + i as u8, shift));
            }
        }
    }
    None
}

/// Appends the presses and releases that type `c`. False (and nothing appended) if a US keyboard
/// has no key for it. Control characters are typed with Ctrl; line feed is Enter, DEL is Backspace.
pub fn push_char(c: char, out: &mut Vec<u8>) -> bool {
    let key = match c {
        '\n' | '\r' => Some((0x1C, None)),
        '\t' => Some((0x0F, None)),
        '\u{8}' | '\u{7F}' => Some((0x0E, None)),
        '\u{1B}' => Some((0x01, None)),
        '\u{1}'..='\u{1A}' => {
            let letter = char::from(b'a' - 1 + c as u8);
            character(letter).map(|(code, _)| (code, Some(CTRL)))
        }
        _ => character(c).map(|(code, shift)| (code, shift.then_some(SHIFT))),
    };
    let Some((code, modifier)) = key else { return false };
    out.extend(modifier);
    out.extend([code, code | RELEASED]);
    out.extend(modifier.map(|m| m | RELEASED));
    true
}

/// Scan codes that type `text`; characters without a key are left out.
pub fn text(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 4);
    for c in text.chars() {
        push_char(c, &mut out);
    }
    out
}

/// Appends the set 2 equivalent of one byte of set 1.
pub(crate) fn push_set2(set1: u8, mut push: impl FnMut(u8)) {
    if matches!(set1, EXTENDED | EXTENDED_1) {
        return push(set1);
    }
    let code = SET2[usize::from(set1 & 0x7F)];
    if code == 0 {
        return;
    }
    if set1 & RELEASED != 0 {
        push(SET2_RELEASED);
    }
    push(code);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scancode_text_types_letters_shift_and_enter() {
        assert_eq!(text("aA\n"), [0x1E, 0x9E, 0x2A, 0x1E, 0x9E, 0xAA, 0x1C, 0x9C]);
        assert_eq!(text("\u{3}"), [0x1D, 0x2E, 0xAE, 0x9D]);
        assert_eq!(text("ä1"), [0x02, 0x82]);
    }

    #[test]
    fn scancode_every_printable_ascii_character_has_a_key() {
        let mut seen = std::collections::HashSet::new();
        for c in ' '..='~' {
            assert!(seen.insert(text(&c.to_string())), "{c} shares its codes");
            assert!(!text(&c.to_string()).is_empty(), "{c}");
        }
    }

    #[test]
    fn scancode_spot_checks_against_the_keyboard_layout() {
        for (c, code) in [('=', 0x0D), ('p', 0x19), ('\'', 0x28), ('`', 0x29), ('\\', 0x2B), ('/', 0x35)] {
            assert_eq!(character(c), Some((code, false)), "{c}");
        }
    }

    #[test]
    fn scancode_names_give_make_and_release() {
        assert_eq!(named_key("left"), Some(vec![0xE0, 0x4B]));
        assert_eq!(release(&[0xE0, 0x4B]), [0xE0, 0xCB]);
        assert_eq!(named_key("x"), Some(vec![0x2D]));
        assert_eq!(named_key("xx"), None);
        assert_eq!(named_key(""), None);
    }

    #[test]
    fn scancode_set_2_of_pause_and_arrow_release() {
        let convert = |codes: &[u8]| {
            let mut out = Vec::new();
            for b in codes {
                push_set2(*b, |x| out.push(x));
            }
            out
        };
        assert_eq!(
            convert(&[0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5]),
            [0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77]
        );
        assert_eq!(convert(&[0xE0, 0xC8]), [0xE0, 0xF0, 0x75]);
        let mut codes: Vec<u8> = SET2[1..].to_vec();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), 127, "set 2 codes are different");
    }
}
