//! Whether the numbers of an RSA private key belong together: so that a damaged key file is told of when the configuration is
//! read, and not at the first message.
//!
//! The cryptography library asks the same when it takes a key, with divisions bit by bit: 0.13 ms a key, more than a second for
//! ten thousand. Here it takes a tenth of that. The library still asks, before a key's first signature, and it verifies every
//! signature that it makes.

use crypto_bigint::{BoxedUint, ConcatenatingMul, NonZero};
use zeroize::Zeroizing;

use super::der::Pkcs1;

/// Bits of a public exponent at most: what the cryptography library takes.
const EXPONENT_BITS_MAX: u32 = 33;

type Number = Zeroizing<BoxedUint>;

/// Whether n = pq, de = 1 modulo p - 1 and q - 1, and exponents and coefficient are those for the Chinese remainder theorem
/// (RFC 8017 section 3.2). Says `false` of unusual keys as well, where the library may say otherwise.
pub(super) fn holds(key: &Pkcs1<'_>) -> bool {
    check(key).unwrap_or(false)
}

fn check(key: &Pkcs1<'_>) -> Option<bool> {
    let [n, e, d, p, q, dp, dq, coefficient] = key.numbers().map(number);
    let is_odd = |number: &Number| number.bit_vartime(0);
    let exponent_bits = e.bits_vartime();
    if !is_odd(&n) || !is_odd(&e) || !(2..=EXPONENT_BITS_MAX).contains(&exponent_bits) {
        return Some(false);
    }
    if *d >= *n || *coefficient >= *p || *product(&p, &q) != *n {
        return Some(false);
    }
    let (before_p, before_q) = (modulus(&less_one(&p))?, modulus(&less_one(&q))?);
    let one = number(&[1]);
    let de = product(&d, &e);
    Some(
        *remainder(&de, &before_p) == *one
            && *remainder(&de, &before_q) == *one
            && *remainder(&d, &before_p) == *dp
            && *remainder(&d, &before_q) == *dq
            && *remainder(&product(&coefficient, &q), &*modulus(&p)?) == *one,
    )
}

fn number(octets: &[u8]) -> Number {
    Zeroizing::new(BoxedUint::from_be_slice_vartime(octets))
}

fn product(one: &Number, other: &Number) -> Number {
    Zeroizing::new(one.concatenating_mul(&**other))
}

fn less_one(number: &Number) -> Number {
    Zeroizing::new(number.wrapping_sub(BoxedUint::one()))
}

fn modulus(number: &Number) -> Option<Zeroizing<NonZero<BoxedUint>>> {
    Option::from(NonZero::new(BoxedUint::clone(number))).map(Zeroizing::new)
}

/// The quotient is wiped as well.
fn remainder(number: &Number, modulus: &NonZero<BoxedUint>) -> Number {
    let (quotient, remainder) = number.div_rem_vartime(modulus);
    drop(Zeroizing::new(quotient));
    Zeroizing::new(remainder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dkim::{NewKey, SigningKey, pem};

    /// The numbers of a key of ours, each to be replaced.
    fn with_numbers(change: impl FnOnce(&mut [Vec<u8>; 8])) -> bool {
        let text = SigningKey::generate(NewKey::Rsa2048).unwrap();
        let Ok(pem::Document::Pkcs8(document)) = pem::private_key(text.expose()) else { panic!("no key") };
        let content = crate::dkim::der::pkcs8_content(&document).unwrap();
        let mut numbers = Pkcs1::read(content).unwrap().numbers().map(<[u8]>::to_vec);
        change(&mut numbers);
        holds(&Pkcs1::of(numbers.each_ref().map(Vec::as_slice)))
    }

    #[test]
    fn a_key_holds_and_with_any_number_changed_it_does_not() {
        assert!(with_numbers(|_| ()));
        for changed in 0..8 {
            for bit in [1, 2, 0x40] {
                let holds = with_numbers(|numbers| *numbers[changed].last_mut().unwrap() ^= bit);
                assert!(!holds, "number {changed}, bit {bit}");
            }
            assert!(!with_numbers(|numbers| numbers[changed] = vec![0]), "number {changed} is zero");
            assert!(!with_numbers(|numbers| numbers[changed] = vec![1]), "number {changed} is one");
            assert!(!with_numbers(|numbers| numbers[changed].push(1)), "number {changed} is longer");
        }
        assert!(!with_numbers(|numbers| numbers.swap(3, 4)), "p and q are exchanged, what belongs to them is not");
    }
}
