//! The Internet checksum (RFC 1071), over 16-bit words in wire order. Which byte order the words are read in does not
//! matter as long as all of them are read alike (RFC 1071 section 2 B), so no byte is swapped.

/// Folds a sum of up to 65,536 words into one, with end-around carry.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "two folds leave 16 bits")]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sum of words, not folded, not complemented.
#[inline(always)]
#[must_use]
pub fn sum(words: &[u16]) -> u32 {
    words.iter().fold(0, |sum, &word| sum + u32::from(word))
}

/// The checksum of `bytes` as a native integer of wire order; 0 for bytes that hold their own correct checksum.
#[must_use]
pub fn of(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [a, b] => u16::from_ne_bytes([a, b]),
        [a] => u16::from_ne_bytes([a, 0]),
        _ => 0,
    });
    !fold(words.fold(0u32, |sum, word| sum + u32::from(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(of(&bytes).to_ne_bytes(), [0x22, 0x0d]);
    }

    proptest! {
        #[test]
        fn a_stored_checksum_verifies(mut words in proptest::collection::vec(any::<u16>(), 1..200)) {
            words[0] = 0;
            words[0] = !fold(sum(&words));
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            prop_assert_eq!(of(&bytes), 0);
        }
    }
}
