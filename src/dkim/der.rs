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
        assert_eq!(take(SEQUENCE, &[0x30, 0x81, 2, 1, 2]), Some((&[1, 2][..], &[][..])));
        for broken in [&[][..], &[0x30], &[0x30, 1], &[0x02, 0], &[0x30, 0x80], &[0x30, 0x85, 0, 0, 0, 0, 0]] {
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
