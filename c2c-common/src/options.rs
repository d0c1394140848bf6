//! IPv4 options, as far as a program has to understand them: whether they choose the packet's route.

/// Bytes of options that a header can hold.
pub const MAX_OPTIONS: usize = 40;

/// Whether options, with zeros after their end, hold a loose or strict source route (RFC 791 section 3.1). A container
/// could reach by it, through a router that obeys, what its rules deny.
///
/// Written without a branch on the bytes: the verifier would follow every way through 40 options, and does not come to
/// an end.
#[inline(always)]
#[must_use]
pub fn are_source_routed(options: &[u8; MAX_OPTIONS]) -> bool {
    const LOOSE_SOURCE_ROUTE: u64 = 131;
    const STRICT_SOURCE_ROUTE: u64 = 137;
    // Bytes to go until the next option begins.
    let mut rest = 0u64;
    let mut found = 0u64;
    let mut i = 0;
    while i < MAX_OPTIONS {
        let kind = options[i] as u64;
        let length = if i + 1 < MAX_OPTIONS { options[i + 1] as u64 } else { 0 };
        let begins = is_zero(rest);
        found |= begins & (is_zero(kind ^ LOOSE_SOURCE_ROUTE) | is_zero(kind ^ STRICT_SOURCE_ROUTE));
        // The end of options (0) is never left; no-operation (1) is one byte; all others say their length.
        let is_end = is_zero(kind);
        let is_single = is_end | is_zero(kind ^ 1);
        let own = is_end * MAX_OPTIONS as u64 + (1 - is_single) * (length.wrapping_sub(1) & 0xff);
        rest = begins * own + (1 - begins) * rest.wrapping_sub(1);
        i += 1;
    }
    found != 0
}

/// 1 for 0, 0 for anything below 2^63.
#[inline(always)]
const fn is_zero(value: u64) -> u64 {
    value.wrapping_sub(1) >> 63
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn padded(bytes: &[u8]) -> [u8; MAX_OPTIONS] {
        let mut options = [0; MAX_OPTIONS];
        options[..bytes.len()].copy_from_slice(bytes);
        options
    }

    /// As RFC 791 says it.
    fn naive(options: &[u8]) -> bool {
        let mut at = 0;
        while at < options.len() {
            match options[at] {
                0 => return false,
                1 => at += 1,
                131 | 137 => return true,
                _ => match options.get(at + 1) {
                    Some(&length) if length >= 1 => at += usize::from(length),
                    _ => return false,
                },
            }
        }
        false
    }

    #[test]
    fn source_routes_are_found_wherever_they_begin() {
        let rows: [(&[u8], bool); 7] = [
            (&[], false),
            (&[131, 7, 4, 192, 0, 2, 1], true),
            (&[1, 1, 137, 7, 4, 192, 0, 2, 1], true),
            (&[7, 7, 4, 0, 0, 0, 0, 131, 3, 4], true),
            (&[7, 7, 4, 131, 137, 131, 137, 1], false),
            (&[0, 131, 7, 4], false),
            (&[148, 4, 0, 0], false),
        ];
        for (bytes, want) in rows {
            assert_eq!(are_source_routed(&padded(bytes)), want, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn as_the_rfc_reads_it(kinds in proptest::collection::vec((0usize..6, 0u8..12), 0..20)) {
            let mut bytes = Vec::new();
            for (kind, length) in kinds {
                let kind = [0, 1, 7, 68, 131, 137][kind];
                bytes.push(kind);
                if kind > 1 {
                    bytes.push(length.max(2));
                    bytes.extend(std::iter::repeat_n(131, usize::from(length.max(2)) - 2));
                }
            }
            bytes.truncate(MAX_OPTIONS);
            let options = padded(&bytes);
            prop_assert_eq!(are_source_routed(&options), naive(&options));
        }
    }
}
