//! A token bucket in one word: the time up to which its tokens are spent (GCRA). It refills by itself, so nobody has to.

/// Value of the maps that limit a rate.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Theoretical arrival time of the next one, in nanoseconds of the kernel's monotonic clock.
    pub due_ns: u64,
}

/// How much a bucket allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// At once; at least 1.
    pub burst: u32,
    /// Nanoseconds until one more is allowed.
    pub interval_ns: u64,
}

/// The bucket after one more, or `None` when the limit is reached.
#[inline(always)]
#[must_use]
pub const fn take(bucket: Bucket, limit: Limit, now_ns: u64) -> Option<Bucket> {
    let due = if bucket.due_ns > now_ns { bucket.due_ns } else { now_ns };
    if due - now_ns > (limit.burst as u64).saturating_sub(1) * limit.interval_ns {
        return None;
    }
    Some(Bucket { due_ns: due + limit.interval_ns })
}

const _: () = assert!(size_of::<Bucket>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Limit = Limit { burst: 256, interval_ns: 1_000_000 };

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let now = 5_000_000_000;
        let mut bucket = Bucket::default();
        for _ in 0..LIMIT.burst {
            bucket = take(bucket, LIMIT, now).unwrap();
        }
        assert_eq!(take(bucket, LIMIT, now), None);
        assert!(take(bucket, LIMIT, now + LIMIT.interval_ns).is_some());
    }

    #[test]
    fn a_burst_of_one_is_one_at_a_time() {
        let limit = Limit { burst: 1, ..LIMIT };
        let bucket = take(Bucket::default(), limit, 7).unwrap();
        assert_eq!(take(bucket, limit, 8), None);
        assert!(take(bucket, limit, 7 + limit.interval_ns).is_some());
    }

    proptest! {
        #[test]
        fn a_limit_is_kept_over_any_time(steps in proptest::collection::vec(0u64..3_000_000, 1..2_000)) {
            let (mut bucket, mut now, mut sent) = (Bucket::default(), 5_000_000_000u64, 0u64);
            let start = now;
            for step in steps {
                now += step;
                if let Some(next) = take(bucket, LIMIT, now) {
                    (bucket, sent) = (next, sent + 1);
                }
                prop_assert!(sent <= u64::from(LIMIT.burst) + (now - start) / LIMIT.interval_ns);
            }
        }
    }
}
