//! New passwords: random, and fit to be read out on the telephone.

use zeroize::Zeroizing;

use crate::config::Secret;

/// Letters and digits that nobody mistakes for one another: no 0 and o, no 1, i and l.
const ALPHABET: &[u8; 31] = b"23456789abcdefghjkmnpqrstuvwxyz";

/// Characters in a group, and groups in a password: 28 characters of 31 are 138 bits.
const GROUP: usize = 7;
const GROUPS: usize = 4;

/// A new password: `2k7mpqr-...`, four groups of seven, 138 bits of randomness.
///
/// # Errors
/// The system has no randomness.
pub fn new_password() -> Result<Secret, String> {
    let mut password = Vec::with_capacity(GROUPS * (GROUP + 1));
    for group in 0..GROUPS {
        if group > 0 {
            password.push(b'-');
        }
        for _ in 0..GROUP {
            password.push(letter()?);
        }
    }
    Ok(Secret::new(password))
}

/// One letter. An octet that would make some letters likelier than others is thrown away.
fn letter() -> Result<u8, String> {
    let mut octet = Zeroizing::new([0; 1]);
    loop {
        aws_lc_rs::rand::fill(octet.as_mut_slice()).map_err(|_| "no randomness from the system".to_owned())?;
        // Five bits: 0 to 31.
        if let Some(letter) = octet.first().and_then(|octet| ALPHABET.get(usize::from(octet & 31))) {
            return Ok(*letter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashMap;

    #[test]
    fn passwords_differ_and_use_every_letter_about_as_often() {
        let passwords: Vec<Vec<u8>> = (0..400).map(|_| new_password().unwrap().expose().to_vec()).collect();
        let mut counts: HashMap<u8, usize> = HashMap::new();
        for password in &passwords {
            assert_eq!(password.len(), 31);
            assert_eq!(password.iter().filter(|&&b| b == b'-').count(), 3);
            password.iter().filter(|&&b| b != b'-').for_each(|b| *counts.entry(*b).or_default() += 1);
        }
        assert_eq!(counts.len(), ALPHABET.len());
        // 400 * 28 / 31 is 361; five standard deviations are 95.
        assert!(counts.values().all(|count| (266..=456).contains(count)), "{counts:?}");
        assert_eq!(passwords.iter().collect::<std::collections::HashSet<_>>().len(), 400);
    }
}
