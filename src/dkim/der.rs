//! As much DER (X.690) as tells what kind of key a PKCS #8 or PKCS #1 document holds. What the key itself is worth is for
//! the cryptography library to say.

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;

/// The octets of the algorithm's object identifier in a PKCS #8 document (RFC 5208 section 5).
pub(super) fn pkcs8_algorithm(document: &[u8]) -> Option<&[u8]> {
    let (info, _) = take(SEQUENCE, document)?;
    let (_version, rest) = take(INTEGER, info)?;
    let (algorithm, _) = take(SEQUENCE, rest)?;
    Some(take(OBJECT_IDENTIFIER, algorithm)?.0)
}

/// The private key inside a PKCS #8 document: for RSA a PKCS #1 document.
pub(super) fn pkcs8_content(document: &[u8]) -> Option<&[u8]> {
    const OCTET_STRING: u8 = 0x04;
    let (info, _) = take(SEQUENCE, document)?;
    let (_version, rest) = take(INTEGER, info)?;
    let (_algorithm, rest) = take(SEQUENCE, rest)?;
    Some(take(OCTET_STRING, rest)?.0)
}

/// The bits of the modulus in a PKCS #1 private key (RFC 8017 appendix A.1.2).
pub(super) fn pkcs1_bits(document: &[u8]) -> Option<usize> {
    let (key, _) = take(SEQUENCE, document)?;
    let (_version, rest) = take(INTEGER, key)?;
    Some(bits(take(INTEGER, rest)?.0))
}

/// The numbers of an RSA private key with two primes (RFC 8017 appendix A.1.2), as DER writes them.
pub(super) struct Pkcs1<'d> {
    numbers: [&'d [u8]; 8],
    /// n and e with their tags: what an RSAPublicKey is made of.
    public: &'d [u8],
}

impl<'d> Pkcs1<'d> {
    /// Reads a document that is written as everybody writes it: DER to the letter, nothing behind it. Of any other nothing is said.
    pub(super) fn read(document: &'d [u8]) -> Option<Self> {
        let (key, rest) = take(SEQUENCE, document)?;
        if !rest.is_empty() {
            return None;
        }
        let (version, after_version) = take(INTEGER, key)?;
        if version != [0] {
            return None;
        }
        let mut numbers = [&[][..]; 8];
        let mut rest = after_version;
        let mut public = 0;
        for (n, number) in numbers.iter_mut().enumerate() {
            let (octets, after) = take(INTEGER, rest)?;
            *number = unsigned(octets)?;
            rest = after;
            if n == 1 {
                public = after_version.len().checked_sub(after.len())?;
            }
        }
        rest.is_empty().then_some(Self { numbers, public: after_version.get(..public)? })
    }

    #[cfg(test)]
    pub(super) fn of(numbers: [&'d [u8]; 8]) -> Self {
        Self { numbers, public: &[] }
    }

    /// n, e, d, p, q, d mod (p - 1), d mod (q - 1), the inverse of q mod p.
    pub(super) fn numbers(&self) -> [&'d [u8]; 8] {
        self.numbers
    }

    /// The RSAPublicKey that belongs to it.
    pub(super) fn public_key(&self) -> Option<Vec<u8>> {
        let length = u16::try_from(self.public.len()).ok().filter(|&length| length >= 0x100)?;
        let [high, low] = length.to_be_bytes();
        Some([&[SEQUENCE, 0x82, high, low], self.public].concat())
    }
}

/// Whether a PKCS #8 document says rsaEncryption, version 0, and holds nothing but the key: as everybody writes it.
pub(super) fn is_plain_rsa_pkcs8(document: &[u8]) -> bool {
    /// Version 0, rsaEncryption with its NULL (RFC 5208 section 5, RFC 8017 appendix A.1).
    const HEAD: &[u8] = &[2, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0, 4];
    let plain = || {
        let (info, behind) = take(SEQUENCE, document)?;
        let (_version, rest) = take(INTEGER, info)?;
        let (_algorithm, rest) = take(SEQUENCE, rest)?;
        let (_key, rest) = take(0x04, rest)?;
        Some(info.starts_with(HEAD) && rest.is_empty() && behind.is_empty())
    };
    plain().unwrap_or(false)
}

/// The octets of a positive number that is written as DER demands: no zero more than the sign needs.
fn unsigned(octets: &[u8]) -> Option<&[u8]> {
    match octets {
        [0, number @ ..] => number.first().is_some_and(|first| first & 0x80 != 0).then_some(number),
        [first, ..] if first & 0x80 == 0 => Some(octets),
        _ => None,
    }
}

/// The bits of an unsigned number.
pub(super) fn bits(number: &[u8]) -> usize {
    let Some(first) = number.iter().position(|&octet| octet != 0) else { return 0 };
    let significant = number.get(first..).unwrap_or_default();
    let leading = significant.first().map_or(0, |octet| octet.leading_zeros() as usize);
    significant.len().saturating_mul(8).saturating_sub(leading)
}

/// The content of the element `tag` at the beginning, and what follows it.
pub(crate) fn take(tag: u8, octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = octets.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let octets_of_length = usize::from(first & 0x7f);
        // Four octets of length are more than any file that is read.
        if octets_of_length == 0 || octets_of_length > 4 {
            return None;
        }
        let (head, tail) = rest.split_at_checked(octets_of_length)?;
        length = head.iter().fold(0, |length, &octet| length << 8 | usize::from(octet));
        // DER has one way to write a length (X.690 section 10.1).
        if head.first() == Some(&0) || length < 0x80 {
            return None;
        }
        rest = tail;
    }
    (found == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_has_the_bits_from_its_first_one() {
        for (number, expected) in [(&[][..], 0), (&[0], 0), (&[0, 0x80, 0], 16), (&[1, 0], 9), (&[0x7f], 7)] {
            assert_eq!(bits(number), expected, "{number:?}");
        }
    }

    #[test]
    fn elements_are_told_apart_by_tag_and_length() {
        assert_eq!(take(SEQUENCE, &[0x30, 2, 1, 2, 9]), Some((&[1, 2][..], &[9][..])));
        let long = [&[0x30, 0x81, 0x80][..], &[7; 0x80]].concat();
        assert_eq!(take(SEQUENCE, &long), Some((&[7; 0x80][..], &[][..])));
        for broken in [
            &[][..],
            &[0x30],
            &[0x30, 1],
            &[0x02, 0],
            &[0x30, 0x80],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
            &[0x30, 0x81, 2, 1, 2],
        ] {
            assert_eq!(take(SEQUENCE, broken), None, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (pkcs8_algorithm(&octets), pkcs8_content(&octets), pkcs1_bits(&octets));
        }
    }
}
